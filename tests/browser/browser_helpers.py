"""What several browser tests do with a page."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = Path(__file__).parent / "screenshots"
DESKTOP = {"viewport": {"width": 1440, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True,
         "device_scale_factor": 2}


def binary():
    build = Path(os.environ.get("SLIPSTREAM_BUILD_DIR", ROOT / "build"))
    return build / "slipstream"


def ask(page, text):
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")


def wait_answered(page):
    """Until no answer is being made and its last words are in the page."""
    page.wait_for_selector("#send:not(.is-stop)")
    page.wait_for_selector(".message.assistant:last-child .foot button")
    page.wait_for_function("() => !document.querySelector('.message.assistant:last-child .open')")
