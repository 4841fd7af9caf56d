"""Fixtures of the browser tests: Chromium, the stand-in server, and the real one where it is built."""

import os
import re
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from browser_helpers import DESKTOP, binary
from mock_server import MockServer

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome")
                 if (path := shutil.which(name))), None)
DEFAULT_MODEL = "models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf"
START_S = 60


# Ends with its module: while it lives, its event loop is the thread's, and no other may run there.
@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as running:
        # Containers have no user namespaces for Chromium's own sandbox.
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def mock():
    libraries = ("/usr/share/nodejs/marked", "/usr/share/javascript/chart.js")
    if shutil.which("cmake") is None or not all(Path(each).exists() for each in libraries):
        pytest.skip("cmake, node-marked or libjs-chart.js is not installed")
    server = MockServer(rate=400).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def open_page(browser):
    """open_page(url, **context options): a page that is ready; an error in its scripts fails."""
    contexts, errors = [], []

    def note_error(error):
        if "preview_frame.html" not in (error.stack or ""):  # what a model wrote may fail
            errors.append(error.stack)

    def opened(url, ready=True, **options):
        context = browser.new_context(**{**DESKTOP, **options})
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", note_error)
        page.goto(url)
        if ready:
            page.wait_for_selector("body[data-ready]")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture
def page(open_page, mock):
    return open_page(mock.url)


def default_model():
    return Path(os.environ.get("SLIPSTREAM_HOME", Path.home() / ".cache/slipstream")) / DEFAULT_MODEL


@pytest.fixture(scope="module")
def live():
    """The URL of a real server with a real model."""
    if not binary().exists():
        pytest.skip(f"{binary()} is not built")
    model = default_model()
    if not model.exists():
        pytest.skip(f"{model} is absent")
    process = subprocess.Popen([binary(), "serve", str(model), "--port", "0", "--no-usage",
                                "--max-model-len", "1024"],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        # One line on stdout once the socket listens; /readyz says when the model is there.
        if not select.select([process.stdout], [], [], START_S)[0]:
            pytest.fail("slipstream serve said nothing")
        line = process.stdout.readline().decode()
        url = re.search(r"http://[\d.]+:\d+", line)
        assert url, f"slipstream serve printed {line!r}"
        wait_ready(url[0])
        yield url[0]
    finally:
        process.terminate()
        process.wait(30)


def wait_ready(url):
    requests = pytest.importorskip("requests", reason="requests is not installed")
    until = time.monotonic() + START_S
    while requests.get(f"{url}/readyz", timeout=5).status_code != 200:
        assert time.monotonic() < until, "the server does not become ready"
        time.sleep(0.05)
