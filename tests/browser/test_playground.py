"""The playground in Chromium, against the stand-in server: what a reader does and sees."""

import json
import random
import re

import pytest

from browser_helpers import PHONE, ask, wait_answered
from mock_server import DEFAULT_TEXT, PROPERTIES


def last_answer(page):
    return page.locator(".message.assistant").last


# --- Streaming ---

def test_text_is_shown_while_the_answer_is_made(page, mock):
    mock.rate = 60
    ask(page, "Hello")
    page.wait_for_function("() => document.querySelector('.message.assistant .body').innerText.length > 20")
    assert page.locator("#send.is-stop").count() == 1, "text came only when the answer was over"
    mock.rate = 5000
    wait_answered(page)
    assert "engines keep growing" in last_answer(page).inner_text()


def test_the_end_stays_in_view_until_the_reader_scrolls_up(page, mock):
    mock.answer = DEFAULT_TEXT * 6
    end = "() => { const t = document.querySelector('#thread'); return t.scrollHeight - t.scrollTop - t.clientHeight; }"
    mock.rate = 1000
    ask(page, "long")
    page.wait_for_function("() => document.querySelectorAll('.message table').length > 2")
    page.wait_for_function(f"() => ({end})() < 5")
    page.hover("#thread")
    page.mouse.wheel(0, -400)
    page.wait_for_function(f"() => ({end})() > 300")
    wait_answered(page)
    assert page.evaluate(f"({end})()") > 300


def test_markdown_becomes_a_document_and_code_is_coloured(page):
    ask(page, "Hello")
    wait_answered(page)
    answer = last_answer(page)
    assert answer.locator("ol > li").count() == 4
    assert answer.locator("table tbody tr").count() == 3
    assert answer.locator("strong").first.inner_text() == "jet engine"
    assert answer.locator("pre .hljs-keyword").first.inner_text() == "def"
    assert answer.locator("pre code").inner_text().startswith("def thrust(")


def test_markup_in_an_answer_is_text_and_fetches_nothing(page, mock):
    requested = []
    page.on("request", lambda request: requested.append(request.url))
    ask(page, "raw")
    wait_answered(page)
    answer = last_answer(page)
    assert "<script>window.hacked=1</script>" in answer.inner_text()
    assert answer.locator("img, script, b").count() == 0
    assert answer.locator("a[href^=javascript]").count() == 0
    assert page.evaluate("window.hacked") is None
    assert all(url.startswith(mock.url) for url in requested)


def test_nodes_are_rebuilt_from_a_list_whatever_the_html_is(page):
    html = ('<p onclick="x()">a<img src=x onerror=x()><svg><style><img src=x onerror=x()></style></svg>'
            '<a href="javascript:x()">b</a><a href="https://e.org" onclick="x()">c</a>'
            '<iframe src="/"></iframe><form><input type="text"><input type="checkbox" checked></form></p>')
    made = page.evaluate("""async (html) => {
        const { safeNodes } = await import("/assets/playground/safe_nodes.js");
        const box = document.createElement("div");
        box.append(safeNodes(html));
        return box.innerHTML;
    }""", html)
    assert not re.search(r"onclick|onerror|javascript|<(img|svg|style|iframe|form)", made)
    assert 'href="https://e.org"' in made and made.count("<input") == 1


def test_any_split_of_the_text_gives_the_same_document(page):
    chance = random.Random(7)
    text = DEFAULT_TEXT + "\n- a\n- b\n  ```js\n  let x = 1;\n  ```\n\n~~~\n`raw`\n~~~~\n> quote\n\n```"
    splits = [[text]]
    for _ in range(6):
        pieces, rest = [], text
        while rest:
            length = chance.choice([1, 2, 3, 7, 40, 200])
            pieces.append(rest[:length])
            rest = rest[length:]
        splits.append(pieces)
    documents = page.evaluate("""async (splits) => {
        const { MarkdownView } = await import("/assets/playground/markdown_view.js");
        return Promise.all(splits.map(async (pieces) => {
            const box = document.createElement("div");
            const view = new MarkdownView(box);
            for (const piece of pieces) {
                view.append(piece);
                await new Promise(requestAnimationFrame);
            }
            await view.finish();
            box.normalize();
            return box.innerHTML;
        }));
    }""", splits)
    assert documents[0].count("<figure") == 3
    for document in documents[1:]:
        assert document == documents[0]


def test_events_are_read_from_any_split_of_the_bytes(page):
    stream = ': ping\r\n\r\ndata: {"a":"ü€"}\n\ndata:{"b":1}\r\n\r\ndata: one\ndata: two\n\ndata: [DONE]'
    events = page.evaluate("""async (text) => {
        const { SseParser } = await import("/assets/playground/sse.js");
        const bytes = new TextEncoder().encode(text);
        const all = [];
        for (let size = 1; size <= bytes.length; size++) {
            const seen = [];
            const parser = new SseParser((data) => seen.push(data));
            for (let at = 0; at < bytes.length; at += size) parser.feed(bytes.subarray(at, at + size));
            parser.end();
            all.push(JSON.stringify(seen));
        }
        return [...new Set(all)];
    }""", stream)
    assert [json.loads(each) for each in events] == [['{"a":"ü€"}', '{"b":1}', "one\ntwo", "[DONE]"]]


def test_an_answer_is_measured_by_the_servers_own_counts(page):
    ask(page, "Hello")
    wait_answered(page)
    tokens = len(re.findall(r"\s?[A-Za-z]{1,5}|\s+|[^\sA-Za-z]{1,2}", DEFAULT_TEXT))
    panel = page.locator("#instruments").inner_text()
    assert f"{tokens} tok" in panel
    assert "31 tok, 16 cached" in panel
    assert re.search(r"\d+ % of the memory roof", panel)
    assert re.search(r"WHOLE SERVER\s+All requests", panel), "the aggregate is not named apart"
    assert f"{tokens} tok" in last_answer(page).locator(".facts").inner_text()


# --- Keys, stop, errors ---

def test_escape_stops_and_the_server_notices(page, mock):
    mock.rate = 40
    ask(page, "Hello")
    page.wait_for_function("() => document.querySelector('.message.assistant .body').innerText.length > 10")
    page.keyboard.press("Escape")
    wait_answered(page)
    assert "stopped" in last_answer(page).locator(".facts").inner_text()
    assert "jet" in last_answer(page).inner_text()
    for _ in range(200):
        if mock.aborted:
            break
        page.wait_for_timeout(25)
    assert mock.aborted == 1


def test_enter_sends_and_shift_enter_breaks_the_line(page, mock):
    page.fill("#prompt", "")
    page.type("#prompt", "one")
    page.keyboard.press("Shift+Enter")
    page.type("#prompt", "two")
    assert not mock.requests
    page.keyboard.press("Enter")
    wait_answered(page)
    assert mock.requests[0]["messages"] == [{"role": "user", "content": "one\ntwo"}]


def test_tabs_are_walked_with_arrow_keys(page):
    page.focus("#tab-chat")
    for name in ("compare", "replay", "server", "chat"):
        page.keyboard.press("ArrowRight")
        assert page.locator(f"#view-{name}").is_visible()
        assert page.evaluate("document.activeElement.id") == f"tab-{name}"


def test_every_control_has_a_name(page):
    ask(page, "Hello")
    wait_answered(page)
    nameless = page.evaluate("""() => [...document.querySelectorAll("button, input, textarea, select")]
        .filter((each) => !each.hidden && !(each.innerText || "").trim() && !each.labels?.length
                          && !each.getAttribute("aria-label"))
        .map((each) => each.outerHTML)""")
    assert nameless == []


def test_a_refusal_is_shown_and_the_next_question_works(page, mock):
    mock.fail_with = (429, "The queue is full.", "rate_limit_error")
    ask(page, "Hello")
    page.wait_for_selector(".message .error")
    assert "The queue is full." in page.locator(".message .error").inner_text()
    last_answer(page).get_by_role("button", name="Regenerate").click()
    wait_answered(page)
    assert "jet engine" in last_answer(page).inner_text()


def test_the_key_is_asked_once_and_sent_from_then_on(open_page, mock):
    mock.key = "secret"
    page = open_page(mock.url, ready=False)
    page.fill("#api-key", "wrong")
    page.get_by_role("button", name="Use key").click()
    page.wait_for_function("() => document.querySelector('dialog')?.innerText.includes('refused')")
    page.fill("#api-key", "secret")
    page.get_by_role("button", name="Use key").click()
    page.wait_for_selector("body[data-ready]")
    ask(page, "Hello")
    wait_answered(page)
    assert page.locator("dialog").count() == 0
    assert page.evaluate("localStorage.getItem('slipstream-api-key')") is None
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.locator("dialog").count() == 0


def test_the_page_waits_for_a_server_that_is_loading(open_page, mock):
    mock.loading = True
    page = open_page(mock.url, ready=False)
    page.get_by_text("The model is loading").wait_for()
    mock.loading = False
    page.wait_for_selector("body[data-ready]")
    assert page.locator("#notice").inner_text() == ""


# --- Branches, editing, keeping ---

def test_regenerating_makes_a_branch_and_keeps_the_first_answer(page, mock):
    ask(page, "echo one")
    wait_answered(page)
    mock.answer = "Another answer."
    last_answer(page).get_by_role("button", name="Regenerate").click()
    wait_answered(page)
    assert "Another answer." in last_answer(page).inner_text()
    assert "2/2" in last_answer(page).inner_text()
    page.get_by_role("button", name="Earlier branch").click()
    page.wait_for_function("() => document.querySelector('.message.assistant').innerText.includes('echo one')")


def test_an_edited_question_is_asked_anew_beside_the_first(page, mock):
    ask(page, "echo first")
    wait_answered(page)
    page.locator(".message.user").hover()
    page.locator(".message.user").get_by_role("button", name="Edit").click()
    page.locator(".edit").fill("echo second")
    page.keyboard.press("Enter")
    wait_answered(page)
    assert [each["messages"][0]["content"] for each in mock.requests] == ["echo first", "echo second"]
    assert "You said: echo second" in last_answer(page).inner_text()
    page.get_by_role("button", name="Earlier branch").click()
    page.wait_for_function("() => document.querySelector('.message.assistant').innerText.includes('echo first')")


def test_a_conversation_is_there_after_a_reload(page, mock):
    page.fill("#system", "Be brief.")
    ask(page, "echo kept")
    wait_answered(page)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert "You said: echo kept" in last_answer(page).inner_text()
    assert page.input_value("#system") == "Be brief."
    ask(page, "echo more")
    wait_answered(page)
    roles = [each["role"] for each in mock.requests[-1]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]


def test_what_is_exported_can_be_imported(page, open_page, mock, tmp_path):
    ask(page, "echo travels")
    wait_answered(page)
    with page.expect_download() as download:
        page.click("#export")
    path = tmp_path / "chats.json"
    download.value.save_as(path)
    other = open_page(mock.url)
    other.set_input_files("#sidebar input[type=file]", path)
    other.wait_for_selector(".message.assistant")
    other.wait_for_function("() => document.querySelector('.message.assistant').innerText.includes('echo travels')")


@pytest.mark.parametrize("damage", [
    "not JSON",
    json.dumps({"format": "other"}),
    json.dumps({"format": "slipstream-conversations", "version": 1, "conversations": [
        {"id": "a", "title": "t", "system": "", "params": {}, "nodes": {
            "root": {"id": "root", "parent": None, "role": "root", "content": "", "children": ["root"],
                     "active": "root"}}}]}),
])
def test_a_damaged_file_is_refused_and_changes_nothing(page, tmp_path, damage):
    path = tmp_path / "chats.json"
    path.write_text(damage)
    page.set_input_files("#sidebar input[type=file]", path)
    page.wait_for_function("() => document.querySelector('#notice').innerText.length > 10")
    assert page.locator(".chats li").count() == 0


# --- Settings and code ---

def test_controls_come_from_the_servers_table_and_only_changes_are_sent(open_page, mock, monkeypatch):
    monkeypatch.setitem(PROPERTIES, "warmth", {"type": ["number", "null"], "minimum": 0, "maximum": 9,
                                               "default": 4, "description": "Not known to the page."})
    page = open_page(mock.url)
    page.get_by_text("More", exact=True).first.click()
    page.fill("#p-warmth", "7")
    page.fill("#p-temperature", "0.3")
    page.fill("#p-top_p", "0.5")
    page.locator(".param", has=page.locator("#p-top_p")).get_by_label("Reset top_p").click()
    page.fill("#p-seed", "12")
    ask(page, "Hello")
    wait_answered(page)
    sent = {name: value for name, value in mock.requests[0].items()
            if name not in ("model", "messages", "stream", "stream_options", "timings")}
    assert sent == {"warmth": 7, "temperature": 0.3, "seed": 12}
    assert page.locator("#p-tools").count() == 0


def test_code_shows_the_request_with_its_settings_and_no_key(open_page, mock):
    mock.key = "secret"
    page = open_page(mock.url, ready=False)
    page.fill("#api-key", "secret")
    page.get_by_role("button", name="Use key").click()
    page.wait_for_selector("body[data-ready]")
    page.fill("#p-temperature", "0.25")
    page.fill("#prompt", "It's \"quoted\" $HOME `x` \\ é\nnext")
    page.click("#view-code")
    for snippet in ("curl", "requests", "openai", "langchain", "javascript"):
        page.click(f"[data-snippet={snippet}]")
        code = page.locator(".snippet").inner_text()
        assert mock.url in code and "0.25" in code and "smollm2-135m" in code
        assert "secret" not in code and "OPENAI_API_KEY" in code


# --- Compare, replay, server ---

def test_two_settings_are_asked_with_one_prompt_and_one_seed(page, mock):
    page.click("#tab-compare")
    page.fill("#compare-prompt", "echo both")
    page.fill("#compare-seed", "77")
    page.click("#compare-run")
    page.wait_for_function("() => document.querySelector('.verdict').innerText.includes('equal')")
    first, second = mock.requests
    assert first["seed"] == second["seed"] == 77
    assert first["messages"] == second["messages"]
    assert sorted([first["temperature"], second["temperature"]]) == [0, 0.8]


def test_replay_states_what_a_workflow_takes_at_each_rate(page):
    page.click("#tab-replay")
    takes = {lane.get_attribute("data-rate"): lane.locator(".workflow").inner_text()
             for lane in page.locator(".lane[data-rate]").all()}
    assert takes == {"50": "16 min 40 s", "100": "8 min 20 s", "1000": "50.0 s", "3000": "16.7 s"}


def test_replay_plays_the_answer_of_the_chat_beside_a_live_stream(page, mock):
    ask(page, "echo words that come again")
    wait_answered(page)
    page.click("#tab-replay")
    page.click("#replay-toggle")
    for lane in page.locator(".lane").all():
        lane.get_by_text("echo words that come again").first.wait_for()
    assert len(mock.requests) == 2
    assert mock.requests[1]["messages"] == mock.requests[0]["messages"]
    page.click("#replay-toggle")


def test_the_dashboard_shows_what_metrics_say(page, mock):
    ask(page, "Hello")
    wait_answered(page)
    page.click("#tab-server")
    tile = page.locator(".tile", has_text="Cache hits")
    tile.get_by_text("42 %").wait_for()
    assert "Finished: stop" in page.locator("#view-server").inner_text()


def test_metrics_text_is_read_with_labels_and_quantiles(page):
    quantile = page.evaluate("""async () => {
        const { parseMetrics, quantileBetween, total } = await import("/assets/playground/prometheus.js");
        const lines = (a, b, c) => parseMetrics(`# HELP x y\\nx_bucket{le="0.1",m="a\\\\"}"} ${a}\\n`
            + `x_bucket{le="1",m="b"} ${b}\\nx_bucket{le="+Inf"} ${c}\\ny{a="1"} 2\\ny{a="2"} 3e0 123\\n`);
        return [quantileBetween(lines(5, 5, 5), lines(5, 15, 15), "x", 0.5), total(lines(0, 0, 0), "y")];
    }""")
    assert quantile == [pytest.approx(0.55), 5]


# --- Phone ---

def test_nothing_is_wider_than_a_phone(open_page, mock):
    page = open_page(mock.url, **PHONE)
    ask(page, "Hello")
    wait_answered(page)
    for view in ("chat", "compare", "replay", "server"):
        page.click(f"#tab-{view}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, view
        assert page.evaluate(f"document.querySelector('#view-{view}').scrollWidth") <= 390, view


def test_on_a_phone_settings_open_over_the_chat_and_close(open_page, mock):
    page = open_page(mock.url, **PHONE)
    assert not page.locator("#p-temperature").is_visible()
    page.click("#settings")
    assert page.locator("#p-temperature").is_visible()
    page.fill("#p-temperature", "0.1")
    page.keyboard.press("Escape")
    assert not page.locator("#p-temperature").is_visible()
    ask(page, "Hello")
    wait_answered(page)
    assert mock.requests[0]["temperature"] == 0.1


# --- Speed ---

@pytest.mark.slow
def test_a_replay_at_3000_tokens_a_second_keeps_50_frames_a_second(page):
    page.click("#tab-replay")
    page.uncheck("#replay-live")
    page.click("#replay-toggle")
    page.locator(".lane[data-rate='3000'] table").first.wait_for()
    rates = page.evaluate("""async () => {
        const rates = [];
        for (let second = 0; second < 5; second++) {
            let frames = 0;
            const start = performance.now();
            while (performance.now() - start < 1000) {
                await new Promise(requestAnimationFrame);
                frames++;
            }
            rates.push(frames / ((performance.now() - start) / 1000));
        }
        return rates;
    }""")
    played = int(page.locator(".lane[data-rate='3000'] .muted").inner_text().split()[0].replace(",", ""))
    print(f"frames/s {[round(each, 1) for each in rates]}, tokens {played}")
    assert played > 12_000
    assert sorted(rates)[len(rates) // 2] >= 50
