"""Fixtures of the client tests: live servers, and the stock clients that talk to them."""

import json
import subprocess

import openai
import pytest
import requests

from live_server import LiveServer, default_model, find_binary, stories_with_template

KEY = "sk-test-0123456789"


@pytest.fixture(scope="session")
def stories_model(tmp_path_factory):
    return stories_with_template(tmp_path_factory.mktemp("model") / "stories")


@pytest.fixture(scope="session")
def stories(stories_model, tmp_path_factory):
    """stories260K without keys: answers within milliseconds."""
    with LiveServer(stories_model, tmp_path_factory.mktemp("stories"), "-t", "2") as server:
        yield server


@pytest.fixture(scope="session")
def smollm(tmp_path_factory):
    """The default model without keys."""
    with LiveServer(default_model(), tmp_path_factory.mktemp("smollm"), "--max-model-len", "2048",
                    "-t", "2") as server:
        yield server


@pytest.fixture(params=["stories", pytest.param("smollm", marks=pytest.mark.slow)])
def server(request):
    """Every test that takes it runs on both models; on the larger one only with the slow suites."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def start(tmp_path, stories_model):
    """start("--flag", ...): another stories260K server, which ends with the test."""
    servers = []

    def started(*flags):
        servers.append(LiveServer(stories_model, tmp_path / f"server{len(servers)}", *flags))
        return servers[-1]

    yield started
    for each in servers:
        each.kill()


@pytest.fixture(scope="session")
def slow(stories_model, tmp_path_factory):
    """Makes a token each 20 ms: there is time to leave, to time out and to be refused."""
    with LiveServer(stories_model, tmp_path_factory.mktemp("slow"), "--executor", "fake",
                    "--fake-step-us", "20000", "--max-num-seqs", "4",
                    "--max-queued-requests", "4") as server:
        yield server


@pytest.fixture
def client(server):
    with openai_client(server) as client:
        yield client


def openai_client(server, key="none", **options):
    return openai.OpenAI(base_url=server.api, api_key=key,
                         **{"max_retries": 0, "timeout": 60, **options})


def async_client(server, key="none", **options):
    return openai.AsyncOpenAI(base_url=server.api, api_key=key,
                              **{"max_retries": 0, "timeout": 60, **options})


def post(server, path, body, **options):
    return requests.post(server.url + path, json=body, timeout=60, **options)


def events_of(response):
    """The data of every event of a raw stream; the frame is checked on the way."""
    text = response.content.decode("utf-8")  # raises if a code point is split or invalid
    assert text.endswith("\n\n")
    data = []
    for event in text[:-2].split("\n\n"):
        if event.startswith(":"):
            continue
        assert event.startswith("data: ") and "\n" not in event, event
        data.append(event.removeprefix("data: "))
    assert data[-1] == "[DONE]" and data.count("[DONE]") == 1
    return [json.loads(each) for each in data[:-1]]


def run_json(*args):
    """What `slipstream ARGS --json` prints."""
    done = subprocess.run([find_binary(), *map(str, args), "--json"], capture_output=True,
                          timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)
