"""The live preview: it runs what a model writes, and what it runs reaches nothing."""

import json

from browser_helpers import ask, wait_answered


def test_a_page_is_previewed_while_it_is_written(page, mock):
    mock.rate = 60
    ask(page, "html")
    page.wait_for_selector(".preview iframe")
    assert page.locator("#send.is-stop").count() == 1
    mock.rate = 5000
    wait_answered(page)
    frame = page.frame_locator(".preview iframe")
    frame.get_by_text("ran 2").wait_for()


def test_a_script_alone_shows_what_it_prints(page, mock):
    mock.answer = "```js\nconsole.log('sum', [1, 2].reduce((a, b) => a + b));\nthrow new Error('seen');\n```\n"
    ask(page, "script")
    wait_answered(page)
    page.get_by_role("button", name="Preview", exact=True).click()
    frame = page.frame_locator(".preview iframe")
    frame.get_by_text("sum 3").wait_for()
    frame.get_by_text("seen").wait_for()


ATTACK = """```html
<!doctype html>
<pre id="out"></pre>
<script>
const out = {};
function attempt(name, work) {
  try { const got = work(); out[name] = "reached " + String(got); } catch (e) { out[name] = "blocked"; }
}
async function later(name, work) {
  try { out[name] = "reached " + String(await work()); } catch (e) { out[name] = "blocked"; }
}
attempt("parent document", () => parent.document.title);
attempt("parent storage", () => parent.localStorage.length);
attempt("own storage", () => localStorage.length);
attempt("cookies", () => document.cookie);
attempt("database", () => { if (!indexedDB) throw 1; return indexedDB.open("x"); });
attempt("top location", () => { top.location = "URL/health"; return 1; });
attempt("window", () => { const w = open("URL/health"); if (!w) throw 1; return w; });
(async () => {
  await later("fetch", async () => (await fetch("URL/v1/models")).status);
  await later("no-cors fetch", async () => (await fetch("URL/v1/models", {mode: "no-cors"})).type);
  await later("xhr", () => new Promise((ok, no) => {
    const x = new XMLHttpRequest(); x.open("GET", "URL/v1/models"); x.onload = () => ok(x.status);
    x.onerror = no; x.send(); }));
  await later("image", () => new Promise((ok, no) => {
    const i = new Image(); i.onload = ok; i.onerror = no; i.src = "URL/assets/shared/mark.svg"; }));
  await later("module", () => import("URL/assets/playground/key.js"));
  await later("worker", () => new Promise((ok, no) => {
    const w = new Worker("URL/assets/playground/markdown_worker.js"); w.onerror = no; setTimeout(ok, 500); }));
  await later("frame", () => new Promise((ok, no) => {
    const f = document.createElement("iframe"); f.src = "URL/"; document.body.append(f);
    f.onload = () => { try { f.contentDocument.title; ok(1); } catch (e) { no(e); } };
    setTimeout(no, 500); }));
  if (!navigator.sendBeacon("URL/v1/chat/completions", "{}")) out.beacon = "blocked";
  parent.postMessage({ type: "key", value: "give" }, "*");
  document.getElementById("out").textContent = JSON.stringify(out);
})();
</script>
```
"""


def test_the_previewed_page_reaches_nothing(page, mock):
    page.evaluate("localStorage.setItem('private', '1')")
    before = page.url
    mock.answer = ATTACK.replace("URL", mock.url)
    mock.rate = 5000
    ask(page, "attack")
    wait_answered(page)
    page.wait_for_selector(".preview iframe")
    assert page.get_attribute(".preview iframe", "sandbox") == "allow-scripts"
    out = page.frame_locator(".preview iframe").locator("#out")
    out.get_by_text("{").wait_for()
    result = json.loads(out.inner_text())
    result.pop("beacon", None)
    assert len(result) == 14
    assert {name: got for name, got in result.items() if got != "blocked"} == {}
    assert len(mock.requests) == 1, "the preview reached the API"
    assert page.url == before
    assert page.frame_locator(".preview iframe").locator("#out").count() == 1


def test_the_preview_document_is_isolated_even_when_opened_by_itself(open_page, mock):
    page = open_page(f"{mock.url}/assets/playground/preview_frame.html", ready=False)
    assert page.evaluate("origin") == "null"
