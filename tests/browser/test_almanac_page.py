"""The almanac's page in Chromium: exported by the binary and opened from disk, or served by it."""

import json
import re
import subprocess
import urllib.request

import pytest

from almanac_points import LOADS, SHAPES, many, point, sweep
from browser_helpers import PHONE, ROOT, SCREENSHOTS, binary

MARKUP = "<img src=x onerror=\"document.title='run'\">"
NARROW = {**PHONE, "viewport": {"width": 360, "height": 740}}


@pytest.fixture(scope="module")
def make_site(tmp_path_factory):
    """make_site(points): the exported page's address. Points, or files of records, go through the store."""
    if not binary().exists():
        pytest.skip(f"{binary()} is not built")

    def made(points=None, files=()):
        folder = tmp_path_factory.mktemp("site")
        files = files or [write(folder / "points.jsonl", points)]
        run("import", *files, "--store", folder / "almanac.db")
        run("export", folder / "site", "--store", folder / "almanac.db")
        return (folder / "site" / "index.html").as_uri()

    return made


def run(*args):
    subprocess.run([binary(), "almanac", *args], check=True, capture_output=True, timeout=120)


def write(path, points):
    path.write_text("".join(json.dumps(each) + "\n" for each in points))
    return path


@pytest.fixture(scope="module")
def compared(make_site):
    """Two engines, a fixed factor apart, at every load, and one shape besides."""
    return make_site(sweep() + [point(shape=(512, 512))])


def rows(page):
    return page.locator("table.points tbody tr")


def cards(page):
    return {card.locator(".label").inner_text().lower(): card.inner_text()
            for card in page.locator(".card").all()}


def click_first_mark(page):
    """Clicks the first point of the chart's first line, or the first bar."""
    canvas = page.locator("#chart canvas").first
    canvas.click(position=canvas.evaluate("""canvas => {
        const { x, y } = Chart.getChart(canvas).getDatasetMeta(0).data[0].getCenterPoint();
        return { x, y };
    }"""))


# --- From disk ---

def test_the_site_opens_from_disk_and_loads_nothing_else(open_page, compared):
    asked, said = [], []
    page = open_page(compared, ready=False)
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert rows(page).count() == 2 * len(LOADS)
    assert page.locator("#chart canvas").first.is_visible()
    assert all(url.startswith("file:") for url in asked) and said == []
    page.click("#tab-data")
    for link in page.locator(".downloads a").all():
        with urllib.request.urlopen(link.evaluate("a => a.href")) as file:
            assert len(file.read()) > 1000


def test_nothing_of_the_data_becomes_markup(open_page, make_site):
    names = {name: MARKUP for name in ("engine", "model", "gpu", "weights", "campaign", "engine_version",
                                       "server_command", "client_command", "first_error", "cpu")}
    page = open_page(make_site([point(**names), point(**{**names, "campaign": "</script>" + MARKUP})]))
    page.locator("th[scope=row] button").first.click()
    assert MARKUP in page.locator("dialog pre").inner_text()
    for view in ("explore", "summary"):
        page.goto(page.url.split("#")[0] + f"#view={view}")
        assert page.locator("main img, main script").count() == 0
        assert MARKUP in page.locator(f"#view-{view}").inner_text()
    assert page.title().startswith("Almanac")


@pytest.mark.parametrize("count", [0, 1])
def test_few_points_are_no_special_case(open_page, make_site, count):
    page = open_page(make_site([point()][:count]))
    assert page.locator("#no-points").is_visible() == (count == 0)
    assert rows(page).count() == count
    page.click("#tab-summary")
    assert ("no points" in page.locator("#summary").inner_text()) == (count == 0)


def test_thousands_of_points_are_shown_a_hundred_at_a_time(open_page, make_site):
    page = open_page(make_site(many(5000)))
    assert page.locator("#count").inner_text() == "5,000 runs"
    assert rows(page).count() == 100
    page.click("#more-rows")
    num_measured = int(page.locator("#table p").inner_text().split()[0])
    assert rows(page).count() == min(200, num_measured) > 100


# --- Choosing ---

def test_a_latency_objective_leaves_the_points_that_meet_it(open_page, compared):
    page = open_page(compared)
    page.select_option("#f-limit", "300")
    shown = page.locator("table.points tbody tr td:nth-of-type(4)").all_inner_texts()
    assert 0 < len(shown) < 2 * len(LOADS)
    assert all(re.fullmatch(r"[\d.]+ ms", text) and float(text.split()[0]) < 300 for text in shown)
    page.select_option("#f-percentile", "p99")
    assert 0 < rows(page).count() < len(shown)
    page.select_option("#f-limit", "custom")
    page.fill("#f-limit-ms", "1")
    page.press("#f-limit-ms", "Enter")
    assert rows(page).count() == 0
    answer = page.locator("#answer").inner_text()
    assert "No measured point shows a first token within 1 ms at p99. The nearest is slipstream" in answer


def test_every_quantity_has_its_own_leader(open_page, make_site):
    tuned = [point("vllm", load=load, repeat=repeat, noise=1 + repeat / 1000, engine_config="latency",
                   output_tok_s=10.0, requests_s=0.01, ttft_ms_p50=1.0) for load in LOADS[:1]
             for repeat in range(3)]
    page = open_page(make_site(sweep() + tuned))
    leaders = cards(page)
    assert "slipstream" in leaders["most throughput, all requests"]
    assert "vllm 1.0 latency" in leaders["shortest time to first token, p50"]
    assert "slipstream" in leaders["fastest single answer, decode p50"]
    assert "the lead is 1.2" in leaders["most throughput, all requests"]


def test_overlapping_intervals_are_a_tie_and_single_runs_no_verdict(open_page, make_site):
    close = [point(engine, repeat=repeat, noise=noise) for engine in ("slipstream", "vllm")
             for repeat, noise in enumerate((0.98, 1.0, 1.02))]
    page = open_page(make_site(close))
    assert "call it a tie" in cards(page)["most throughput, all requests"]
    page = open_page(make_site([point("slipstream", factor=2.0), point("vllm")]))
    assert "no verdict" in cards(page)["most throughput, all requests"]


def test_figures_from_inside_the_engine_are_not_ranked_with_those_over_http(open_page, make_site):
    latencies = {name: None for name in point() if re.match(r"(ttft|tpot|itl|e2e)_ms", name)}
    inside = point("vllm", load=("offline", 0, 256), output_tok_s=1e6, **latencies)
    page = open_page(make_site(sweep() + [inside]))
    assert "slipstream" in cards(page)["most throughput, all requests"]
    assert "not ranked here: 1" in page.locator("#answer").inner_text()
    assert "in engine" in rows(page).filter(has_text="inside the engine").inner_text()


def test_a_lagging_client_invalidates_a_point(open_page, make_site):
    lagging = point("vllm", load=("constant", 20, 0), factor=50.0, client_lag_ms_p99=1.5)
    page = open_page(make_site(sweep() + [lagging]))
    assert rows(page).count() == 2 * len(LOADS)
    assert "1 invalid (client lag above 1 ms at p99) left out" in page.locator("#table").inner_text()
    page.check("#f-invalid")
    assert "invalid" in rows(page).first.inner_text()
    assert "slipstream" in cards(page)["most throughput, all requests"]


def test_campaigns_that_contradict_each_other_are_marked(open_page, make_site):
    page = open_page(make_site(sweep(("vllm",)) + [
        dict(each, campaign="again", output_tok_s=each["output_tok_s"] * 1.2,
             requests_s=each["requests_s"] * 1.2) for each in sweep(("vllm",))[:3]]))
    assert page.locator(".mark.bad", has_text="disputed").count() == 2
    page.click("#tab-summary")
    assert "2 of 7 measurements: disputed" in page.locator("#summary").inner_text()


def test_a_workload_that_was_not_measured_gets_the_nearest_shape(open_page, compared):
    page = open_page(compared)
    page.fill("#f-want", "600/400")
    page.press("#f-want", "Enter")
    assert page.locator("#f-shape").input_value() == "512/512"
    assert "was not measured; showing the nearest" in page.locator("#notices").inner_text()
    assert rows(page).count() == 1


def test_filters_that_contradict_each_other_say_which_to_drop(open_page, compared):
    page = open_page(compared + "#engine=vllm&gpu=H999&model=qwen3-8b")
    notice = page.locator("#notices").inner_text()
    assert notice == ("No point has device H999 with engine vllm; without the filter of the device there"
                      " are some.")
    page = open_page(compared + "#model=none&shape=9/9&limit=abc&view=nope")
    assert "no points of the model" in page.locator("#notices").inner_text()
    assert rows(page).count() == 2 * len(LOADS)


def test_cost_is_price_over_tokens(open_page, make_site):
    page = open_page(make_site([point(num_devices=2, output_tok_s=1000.0)]))
    assert page.locator("th", has_text="Cost").count() == 0
    page.fill("#f-price-0", "3.6")
    page.press("#f-price-0", "Enter")
    # 2 devices x 3.6 an hour, 3.6 million tokens an hour.
    assert "2.00" in rows(page).inner_text()
    assert "2.00" in cards(page)["cheapest million output tokens"]


# --- One measurement ---

def test_a_point_of_the_chart_opens_its_commands_and_raw_rows(open_page, make_site):
    page = open_page(make_site([point(repeat=repeat) for repeat in range(3)]))
    click_first_mark(page)
    dialog = page.locator("dialog[open]")
    text = dialog.inner_text()
    assert "slipstream serve qwen3-8b --port 8000" in text and "slipstream bench serve --url" in text
    assert dialog.locator("table.raw thead th").count() == 4
    assert [tile.inner_text().split("\n")[0].lower() for tile in dialog.locator(".tile").all()] == [
        "first token", "decode, one request", "all requests together"]
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog[open]", state="detached")
    page.wait_for_function("() => document.activeElement.id.startsWith('row-')")


def test_throughput_without_latencies_is_drawn_as_bars(open_page, make_site):
    latencies = {name: None for name in point() if re.match(r"(ttft|tpot|itl|e2e)_ms", name)}
    site = make_site([point(engine, load=("offline", 0, 256), output_tok_s=rate, **latencies)
                      for engine, rate in (("vllm", 2000.0), ("slipstream", 1000.0))])
    for options in ({}, NARROW):
        page = open_page(site + "#rate=output_tok_s", **options)
        assert "throughput alone" in page.locator("#chart").inner_text()
        assert page.evaluate("Chart.getChart(document.querySelector('#chart canvas')).data.datasets[0].data") == [
            2000, 1000]
        assert ("vllm, inside the engine" in page.locator(".legend").inner_text()) == bool(options)
        click_first_mark(page)
        assert page.locator("#point-title").inner_text() == "vllm 1.0"


# --- The address ---

def test_the_address_holds_the_view_and_back_returns(open_page, compared):
    page = open_page(compared)
    page.select_option("#f-percentile", "p99")
    page.check("#f-engine-1")
    page.locator("th[scope=row] button").first.click()
    address = page.url
    other = open_page(address)
    assert other.locator("dialog[open]").count() == 1
    assert other.locator("#f-percentile").input_value() == "p99"
    other.keyboard.press("Escape")
    other.wait_for_selector("dialog[open]", state="detached")
    assert set(other.locator("th[scope=row] button").all_inner_texts()) == {"vllm 1.0"}
    page.go_back()
    page.wait_for_selector("dialog[open]", state="detached")
    assert rows(page).count() == len(LOADS)


# --- For everyone ---

def test_the_page_works_by_keyboard_and_everything_has_a_name(open_page, compared):
    page = open_page(compared)
    page.focus("#tab-explore")
    page.keyboard.press("ArrowRight")
    assert page.locator("#view-summary").is_visible()
    assert page.evaluate("document.activeElement.id") == "tab-summary"
    page.keyboard.press("ArrowLeft")
    page.focus("#sort-ttft")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "sort-ttft"
    assert page.locator("th:has(#sort-ttft)").get_attribute("aria-sort") == "descending"
    unnamed = page.evaluate("""() => [...document.querySelectorAll('input, select, button, canvas[role=img]')]
        .filter((each) => !each.labels?.length && !each.ariaLabel && !each.innerText).map((each) => each.outerHTML)""")
    assert unnamed == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(open_page, compared, scheme):
    page = open_page(compared, color_scheme=scheme)
    low = page.evaluate("""() => {
        const light = (color) => {
            const [r, g, b] = color.match(/[\\d.]+/g).map((c) => c / 255)
                .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const behind = (element) => {
            for (let each = element; each; each = each.parentElement) {
                const color = getComputedStyle(each).backgroundColor;
                if (color !== 'rgba(0, 0, 0, 0)') return color;
            }
        };
        return [...document.querySelectorAll('main *')]
            .filter((each) => each.checkVisibility() && [...each.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
            .map((each) => {
                const [a, b] = [light(getComputedStyle(each).color), light(behind(each))];
                return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), each.outerHTML.slice(0, 80)];
            }).filter(([ratio]) => ratio < 4.5);
    }""")
    assert low == []


def test_nothing_moves(open_page, compared):
    page = open_page(compared, reduced_motion="reduce")
    assert page.evaluate("Chart.getChart(document.querySelector('#chart canvas')).options.animation") is False
    assert page.evaluate("document.getAnimations().length") == 0


@pytest.mark.parametrize("view", ["explore", "summary", "method", "data"])
def test_a_narrow_phone_scrolls_only_downwards(open_page, make_site, view):
    page = open_page(make_site(many(200)) + f"#view={view}", **NARROW)
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def num_printed_pages(page):
    return len(re.findall(rb"/Type\s*/Page\b(?!s)", page.pdf(prefer_css_page_size=True)))


@pytest.mark.parametrize("count", [1, 200, 5000])
def test_the_summary_prints_on_one_page(open_page, make_site, count):
    page = open_page(make_site(many(count)) + "#view=summary", color_scheme="dark")
    assert num_printed_pages(page) == 1


def test_the_summary_of_this_repositorys_records_prints_on_one_page(open_page, make_site):
    page = open_page(make_site(files=sorted((ROOT / "bench/results").glob("*throughput.jsonl"))) + "#view=summary")
    assert "dummy (random) weights" in page.locator("#summary").inner_text()
    assert num_printed_pages(page) == 1


# --- On a server ---

@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address `almanac page` prints, and its store."""
    if not binary().exists():
        pytest.skip(f"{binary()} is not built")
    folder = tmp_path_factory.mktemp("served")
    store = folder / "almanac.db"
    run("import", write(folder / "points.jsonl", [point()]), "--store", store)
    process = subprocess.Popen([binary(), "almanac", "page", "--store", store, "--port", "0"],
                               stdout=subprocess.PIPE)
    try:
        url = re.search(r"http://\S+", process.stdout.readline().decode())[0]
        yield url, store
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_a_served_page_shows_what_was_measured_since(open_page, served, tmp_path):
    url, store = served
    page = open_page(url.removesuffix("/almanac"))  # is sent on
    assert page.url == url and rows(page).count() == 1
    run("import", write(tmp_path / "more.jsonl", [point("vllm")]), "--store", store)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert rows(page).count() == 2


def test_a_model_server_has_the_page_without_points(open_page, live):
    page = open_page(f"{live}/almanac")
    assert "--almanac almanac.db" in page.locator("#no-points").inner_text()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name, options", [("desktop", {}), ("phone", NARROW)])
def test_pictures_of_the_almanac(open_page, make_site, scheme, name, options):
    SCREENSHOTS.mkdir(exist_ok=True)
    site = make_site(sweep(("slipstream", "vllm", "sglang")) + [point(shape=shape) for shape in SHAPES[1:]])
    for view in ("explore", "summary", "method", "data"):
        page = open_page(f"{site}#view={view}", color_scheme=scheme, **options)
        path = SCREENSHOTS / f"almanac-{name}-{scheme}-{view}.png"
        page.screenshot(path=path, full_page=True)
        assert path.stat().st_size > 0
