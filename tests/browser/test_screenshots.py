"""Pictures of the page, to be looked at: tests/browser/screenshots (not kept in the repository)."""

import pytest

from browser_helpers import DESKTOP, PHONE, SCREENSHOTS, ask, wait_answered


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name, options", [("desktop", DESKTOP), ("phone", PHONE)])
def test_pictures_of_every_view(open_page, mock, scheme, name, options):
    SCREENSHOTS.mkdir(exist_ok=True)
    page = open_page(mock.url, color_scheme=scheme, **options)

    def shot(view):
        path = SCREENSHOTS / f"{name}-{scheme}-{view}.png"
        page.screenshot(path=path)
        assert path.stat().st_size > 0

    shot("welcome")
    mock.rate = 150
    ask(page, "Explain how a jet engine works, briefly.")
    page.wait_for_selector(".message.assistant table")
    shot("streaming")
    mock.rate = 2000
    wait_answered(page)
    shot("chat")
    page.click("#view-code") if name == "desktop" else page.click("#settings")
    shot("settings")
    page.keyboard.press("Escape")
    page.click("#tab-compare")
    page.fill("#compare-prompt", "Explain how a jet engine works, briefly.")
    page.click("#compare-run")
    page.wait_for_function("() => document.querySelector('.verdict').innerText.includes('equal')")
    shot("compare")
    page.click("#tab-replay")
    page.click("#replay-toggle")
    page.locator(".lane[data-rate='50'] ol").wait_for()
    shot("replay")
    page.click("#replay-toggle")
    page.click("#tab-server")
    page.locator(".tile", has_text="Cache hits").get_by_text("42 %").wait_for()
    shot("server")
