"""What goes over the wire, seen with plain requests: statuses, headers, bytes."""

import json

import pytest
import requests

from conftest import KEY, events_of, post

CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "temperature": 0}
COMPLETION = {"prompt": "Once", "max_tokens": 4, "temperature": 0}
OPEN_ROUTES = ("/health", "/ping", "/livez", "/readyz")
KEYED_ROUTES = ("/v1/models", "/metrics", "/version", "/load", "/openapi.json", "/usage",
                "/tokenizer_info")
# Every field a client may leave open.
OPTIONAL = ("temperature", "top_p", "top_k", "min_p", "n", "max_tokens", "max_completion_tokens",
            "stop", "stop_token_ids", "seed", "logprobs", "top_logprobs", "logit_bias", "stream",
            "stream_options", "user", "tools", "tool_choice", "response_format",
            "presence_penalty", "frequency_penalty", "repetition_penalty", "min_tokens",
            "ignore_eos", "skip_special_tokens", "priority", "cache_salt", "bad_words",
            "allowed_token_ids", "truncate_prompt_tokens", "metadata", "parallel_tool_calls",
            "chat_template_kwargs", "prompt_logprobs", "echo", "suffix", "best_of")


def test_an_answer_is_json_with_a_request_id(stories):
    response = post(stories, "/v1/chat/completions", CHAT)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("application/json")
    assert int(response.headers["content-length"]) == len(response.content)
    assert response.headers["x-request-id"]
    echoed = post(stories, "/v1/chat/completions", CHAT, headers={"x-request-id": "mine-1.2_3"})
    assert echoed.headers["x-request-id"] == "mine-1.2_3"
    for hostile in ("x" * 129, "a b", "a;b", "é".encode()):
        other = post(stories, "/v1/chat/completions", CHAT, headers={"x-request-id": hostile})
        assert other.headers["x-request-id"] != hostile


def test_a_stream_is_framed_as_clients_expect(stories):
    response = post(stories, "/v1/chat/completions", {**CHAT, "stream": True}, stream=True)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["transfer-encoding"] == "chunked"
    events = events_of(response)
    assert all(event["object"] == "chat.completion.chunk" for event in events)
    assert b"\r" not in response.content


def test_nulls_mean_unset_everywhere(stories):
    nulls = {name: None for name in OPTIONAL}
    bare = {"messages": CHAT["messages"], "seed": 1, "max_tokens": 4}
    with_nulls = {**nulls, **bare}
    want = post(stories, "/v1/chat/completions", bare).json()["choices"]
    response = post(stories, "/v1/chat/completions", with_nulls)
    assert response.status_code == 200, response.text
    assert response.json()["choices"] == want
    response = post(stories, "/v1/completions", {**nulls, "prompt": "Once"})
    assert response.status_code == 200, response.text
    assert response.json()["usage"]["completion_tokens"] <= 16  # the default of completions


def test_unknown_fields_are_ignored_and_counted(stories):
    name = "slipstream:unknown_request_fields_total"
    before = stories.metrics()[name]
    response = post(stories, "/v1/chat/completions", {**CHAT, "invented": 1, "other": {"a": []}})
    assert response.status_code == 200
    assert stories.metrics()[name] == before + 2


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"text"', b'{"a":1}x', b"\xff\xfe",
                                  b'{"messages": [], "messages": []}', b"[" * 10_000,
                                  b'{"model": "\\ud800", "prompt": "a"}'])
def test_a_broken_body_is_400_and_the_server_lives(stories, body):
    for path in ("/v1/chat/completions", "/v1/completions", "/tokenize"):
        response = requests.post(stories.url + path, data=body, timeout=10,
                                 headers={"content-type": "application/json"})
        assert 400 <= response.status_code < 405, (path, response.text)
        assert response.json()["error"]["type"]
    assert post(stories, "/v1/completions", COMPLETION).status_code == 200


def test_other_methods_types_and_paths_are_refused(stories):
    response = requests.get(stories.api + "/chat/completions", timeout=10)
    assert response.status_code == 405 and "POST" in response.headers["allow"]
    response = requests.post(stories.api + "/completions", data="prompt=a", timeout=10,
                             headers={"content-type": "application/x-www-form-urlencoded"})
    assert response.status_code == 415
    response = requests.post(stories.api + "/completions", data=json.dumps(COMPLETION), timeout=10,
                             headers={"content-type": "application/json",
                                      "content-encoding": "gzip"})
    assert response.status_code == 415
    for path in ("/v1/chat/completions/", "//v1/models", "/V1/models", "/v1/../metrics", "/nope"):
        prepared = requests.Request("GET", stories.url).prepare()
        prepared.url = stories.url + path
        assert requests.Session().send(prepared, timeout=10).status_code == 404, path


def test_a_body_beyond_the_limit_is_413(stories):
    response = requests.post(stories.api + "/completions", timeout=60,
                             json={"prompt": "a" * (9 << 20), "max_tokens": 1})
    assert response.status_code == 413
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_every_route_needs_the_key_but_the_probes(start):
    server = start("--api-key", KEY)
    for path in OPEN_ROUTES:
        assert requests.get(server.url + path, timeout=10).status_code == 200, path
    for path in KEYED_ROUTES:
        assert requests.get(server.url + path, timeout=10).status_code == 401, path
        for headers in ({"authorization": "Bearer " + KEY}, {"x-api-key": KEY}):
            response = requests.get(server.url + path, headers=headers, timeout=10)
            assert response.status_code == 200, path
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION),
                       ("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]}),
                       ("/apply-template", CHAT)):
        assert post(server, path, body).status_code == 401, path
        assert post(server, path, body, headers={"x-api-key": KEY}).status_code == 200, path
    assert KEY not in server.log()


def test_tokens_go_there_and_back(server):
    text = "Once upon a time, naïve 猫 🐈."
    tokens = post(server, "/tokenize", {"prompt": text}).json()
    assert tokens["count"] == len(tokens["tokens"]) and tokens["max_model_len"] > 0
    back = post(server, "/detokenize", {"tokens": tokens["tokens"]}).json()
    assert text in back["prompt"]
    assert post(server, "/tokenize", {"content": text}).json()["tokens"]
    chat = post(server, "/tokenize", {"messages": CHAT["messages"]}).json()
    answer = post(server, "/v1/chat/completions", CHAT).json()
    assert chat["count"] == answer["usage"]["prompt_tokens"]
    rendered = post(server, "/apply-template", {"messages": CHAT["messages"]}).json()["prompt"]
    assert "Hi" in rendered


def test_text_never_contains_half_a_code_point(server):
    """High temperature makes byte tokens; every event must still be whole JSON and UTF-8."""
    for seed in range(4):
        body = {"prompt": "猫 🐈", "max_tokens": 60, "temperature": 5.0, "seed": seed,
                "stream": True, "ignore_eos": True}
        events = events_of(post(server, "/v1/completions", body))
        whole = post(server, "/v1/completions", {**body, "stream": False}).json()["choices"][0]
        assert "".join(event["choices"][0]["text"] for event in events) == whole["text"]


def test_one_connection_serves_many_requests(stories):
    with requests.Session() as session:
        for idx in range(50):
            body = {**COMPLETION, "stream": idx % 2 == 0}
            response = session.post(stories.api + "/completions", json=body, timeout=10)
            assert response.status_code == 200
            assert response.content


def test_metrics_are_text_and_count_what_was_done(stories):
    before = stories.metrics()
    post(stories, "/v1/completions", {**COMPLETION, "ignore_eos": True})
    after = stories.wait_until_idle()
    assert after["vllm:generation_tokens_total"] - before["vllm:generation_tokens_total"] == 4
    assert (after["vllm:request_success_total"] - before["vllm:request_success_total"]) == 1
    response = requests.get(stories.url + "/metrics", timeout=10)
    assert response.headers["content-type"].startswith("text/plain")


def test_the_openapi_document_names_every_parameter(stories):
    document = requests.get(stories.url + "/openapi.json", timeout=10).json()
    assert document["openapi"].startswith("3.")
    assert "/v1/chat/completions" in document["paths"]
    text = json.dumps(document)
    for name in OPTIONAL:
        assert f'"{name}"' in text, name
