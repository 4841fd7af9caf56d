"""The page and its code snippets against a real server: Chromium, curl, Python, Node."""

import importlib.util
import json
import shutil
import subprocess
import sys

import pytest

from browser_helpers import ask, wait_answered

PROMPT = "Say \"hi\" to Zoë's café & `uname` $HOME \\n.\nOne line."
ANSWER_TOKENS = 12


def test_an_answer_streams_and_is_measured(open_page, live):
    page = open_page(live)
    page.fill("#p-temperature", "0")
    page.fill("#p-max_completion_tokens", "24")
    ask(page, "Count to ten.")
    wait_answered(page)
    assert page.locator(".message .error").count() == 0
    assert page.locator(".message.assistant .body").inner_text().strip()
    panel = page.locator("#instruments").inner_text()
    assert "% of the memory roof" in panel and "– of the memory roof" not in panel
    facts = page.locator(".message.assistant .facts").last.inner_text()
    assert "24 tok" in facts and "cut at the token limit" in facts


def test_stop_ends_the_request_on_the_server(open_page, live):
    page = open_page(live)
    page.check("#p-ignore_eos") if page.locator("#p-ignore_eos").is_visible() else None
    ask(page, "Write a very long story about the sea.")
    page.wait_for_function("() => document.querySelector('.message.assistant .body').innerText.length > 20")
    page.keyboard.press("Escape")
    wait_answered(page)
    page.click("#tab-server")
    running = page.locator(".tile", has_text="Running").locator(".large")
    page.wait_for_function("(each) => each.innerText === '0'", arg=running.element_handle())


def test_every_sampling_field_of_the_servers_table_has_a_control(open_page, live):
    page = open_page(live)
    for name in ("temperature", "top_p", "top_k", "min_p", "seed", "max_completion_tokens", "stop",
                 "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias",
                 "min_tokens", "ignore_eos", "stop_token_ids"):
        assert page.locator(f"#p-{name}").count() == 1, name
    for name in ("tools", "response_format", "chat_template", "grammar"):
        assert page.locator(f"#p-{name}").count() == 0, name


def test_the_preview_reaches_nothing_of_a_real_server(open_page, live):
    page = open_page(live)
    page.evaluate("""async () => {
        const { PreviewPane } = await import("/assets/playground/preview.js");
        const pane = new PreviewPane(document.querySelector("#preview"), { onToggle: () => {} });
        pane.show({ lang: "html", done: true, text: `<pre id=out></pre><script>
            fetch("${location.origin}/health").then(() => "reached", () => "blocked").then((fetched) => {
                let store = "reached";
                try { parent.localStorage.length; } catch { store = "blocked"; }
                document.getElementById("out").textContent = fetched + " " + store + " " + origin;
            });</script>` });
    }""")
    out = page.frame_locator("#preview iframe").locator("#out")
    out.get_by_text("null").wait_for()
    assert out.inner_text() == "blocked blocked null"


# --- Snippets ---

@pytest.fixture
def snippets(open_page, live):
    """The code of each language for one request, as the dialog shows it."""
    page = open_page(live)
    page.fill("#p-temperature", "0")
    page.fill("#p-max_completion_tokens", str(ANSWER_TOKENS))
    page.fill("#p-top_k", "40")
    page.fill("#system", "You are brief.")
    page.fill("#prompt", PROMPT)
    page.click("#view-code")
    codes = {}
    for tab in page.locator("[data-snippet]").all():
        tab.click()
        codes[tab.get_attribute("data-snippet")] = page.locator(".snippet code").text_content()
    return codes


def run(command, path):
    done = subprocess.run([*command, path], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def text_of_events(stream):
    lines = [line[6:] for line in stream.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    return "".join(each["choices"][0]["delta"].get("content") or ""
                   for each in chunks if each["choices"])


def test_snippets_run_as_shown_and_give_one_answer(snippets, tmp_path):
    assert set(snippets) == {"curl", "requests", "openai", "langchain", "javascript"}
    needs = {"requests": "requests", "openai": "openai", "langchain": "langchain_openai"}
    answers = {}
    for name, code in snippets.items():
        path = tmp_path / f"{name}{'.mjs' if name == 'javascript' else '.txt'}"
        path.write_text(code)
        if name == "curl" and shutil.which("curl"):
            answers[name] = text_of_events(run(["bash"], path)) + "\n"
        elif name == "javascript" and shutil.which("node"):
            answers[name] = run(["node"], path)
        elif name in needs and importlib.util.find_spec(needs[name]):
            answers[name] = run([sys.executable], path)
    if not answers:
        pytest.skip("none of curl, requests, openai, langchain-openai and node is installed")
    print(f"ran {sorted(answers)}")
    assert len(set(answers.values())) == 1, answers
    assert next(iter(answers.values())).strip()
