"""Every failure reaches the stock client as the exception class the original would raise."""

import threading
import time

import httpx2
import openai
import pytest
import requests

from conftest import KEY, openai_client, post

MESSAGES = [{"role": "user", "content": "Hello"}]
LONG = {"messages": MESSAGES, "max_tokens": 200, "extra_body": {"ignore_eos": True}}

# (what is wrong, the parameter the error names)
BAD_CHAT = [
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, None),
    ({"n": 0}, "n"),
    ({"n": 100_000}, "n"),
    ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
    ({"top_logprobs": 3}, None),
    ({"logprobs": "yes"}, "logprobs"),
    ({"seed": 2 ** 70}, "seed"),
    ({"stop": 5}, "stop"),
    ({"stop": [""]}, "stop"),
    ({"stop": ["x"] * 100}, "stop"),
    ({"logit_bias": {"a": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias"),
    ({"logit_bias": {"99999999": 1}}, "logit_bias"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"stream": "true"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, None),
    ({"messages": [{"role": "user", "content": 5}]}, None),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, None),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"response_format": {"type": "json_object"}}, "response_format.type"),
    ({"chat_template": "{{ x }}"}, "chat_template"),
]


@pytest.mark.parametrize("extra, param", BAD_CHAT, ids=lambda each: str(each)[:40])
def test_a_bad_chat_parameter_is_a_bad_request_that_names_it(stories, extra, param):
    body = {"model": stories.model, "messages": MESSAGES, "max_tokens": 1, **extra}
    response = post(stories, "/v1/chat/completions", body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error" and error["message"]
    if param is not None:
        assert error["param"] == param
    with openai_client(stories) as client, pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", body=body, cast_to=object)
    assert caught.value.param == error["param"] and caught.value.request_id


@pytest.mark.parametrize("extra", [
    {"prompt": []}, {"prompt": 5}, {"prompt": [1, "a"]}, {"prompt": [-1]}, {"prompt": [10 ** 9]},
    {"prompt": [[1], []]}, {"suffix": "end"}, {"logprobs": 21}, {"best_of": 2}, {"echo": "yes"}])
def test_a_bad_completion_parameter_is_a_bad_request(stories, extra):
    body = {"model": stories.model, "prompt": "a", "max_tokens": 1, **extra}
    with openai_client(stories) as client, pytest.raises(openai.BadRequestError) as caught:
        client.post("/completions", body=body, cast_to=object)
    assert caught.value.type == "invalid_request_error"


def test_a_prompt_beyond_the_context_says_by_how_much(server):
    ids = [1] * 20_000
    with openai_client(server) as client, pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=server.model, prompt=ids, max_tokens=1)
    assert caught.value.code == "context_length_exceeded"
    assert "20000" in caught.value.message.replace(",", "")


def test_an_unknown_model_or_route_is_not_found(stories):
    with openai_client(stories) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model="gpt-4", messages=MESSAGES)
        assert caught.value.code == "model_not_found"
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model=stories.model, input="a", encoding_format="float")


def test_a_wrong_key_is_an_authentication_error_on_every_route(start):
    server = start("--api-key", KEY)
    for key in ("wrong", KEY[:-1], KEY + "x"):
        with openai_client(server, key) as client:
            with pytest.raises(openai.AuthenticationError):
                client.chat.completions.create(model=server.model, messages=MESSAGES)
            with pytest.raises(openai.AuthenticationError):
                client.models.list()
    with openai_client(server, KEY) as client:
        assert client.completions.create(model=server.model, prompt="a", max_tokens=1).choices


def test_a_rate_limit_is_retried_as_retry_after_says_and_then_raised(start):
    server = start("--api-key", KEY, "--rate-limit-requests", "1")
    num_sent, waits = [], []
    hooks = {"request": [lambda request: num_sent.append(time.monotonic())],
             "response": [lambda response: waits.append(response.headers.get("retry-after"))]}
    with httpx2.Client(event_hooks=hooks) as http:
        client = openai_client(server, KEY, http_client=http)
        client.completions.create(model=server.model, prompt="a", max_tokens=1)
        with pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(model=server.model, prompt="a", max_tokens=1)
    assert len(num_sent) == 2  # max_retries is 0 here
    assert caught.value.code == "rate_limit_exceeded" and caught.value.type == "rate_limit_error"
    assert 1 <= int(waits[-1]) <= 60


class WaitingStream:
    """A streamed request that nobody reads: the stock client would wait for its first event."""

    def __init__(self, server):
        self.server = server
        self.thread = threading.Thread(target=self.send)
        self.thread.start()

    def send(self):
        body = {"messages": MESSAGES, "max_tokens": 20, "stream": True, "ignore_eos": True}
        self.response = post(self.server, "/v1/chat/completions", body, stream=True)

    def close(self):
        self.thread.join()
        self.response.close()


def test_a_full_queue_is_retried_by_the_client_until_there_is_room(slow):
    """Four run, four wait; the ninth gets 429 before headers and comes through by retrying."""
    with openai_client(slow, max_retries=10) as client:
        streams = [client.chat.completions.create(model=slow.model, stream=True,
                                                  **{**LONG, "max_tokens": 40}) for _ in range(4)]
        slow.wait_for(lambda m: m["vllm:num_requests_running"] == 4, "four run")
        waiting = [WaitingStream(slow) for _ in range(4)]
        slow.wait_for(lambda m: m["vllm:num_requests_waiting"] == 4, "four wait")
        with openai_client(slow) as impatient, pytest.raises(openai.RateLimitError) as caught:
            impatient.chat.completions.create(model=slow.model, **LONG)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        answer = client.chat.completions.create(model=slow.model, messages=MESSAGES, max_tokens=1)
        assert answer.choices
        for each in streams + waiting:
            each.close()
    slow.wait_until_idle()


def test_a_client_timeout_is_an_api_timeout_and_frees_the_request(slow):
    with openai_client(slow, timeout=0.3) as client, pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model=slow.model, **LONG)
    slow.wait_until_idle()


def test_a_server_timeout_is_a_504_before_the_first_token(slow):
    with openai_client(slow) as client, pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model=slow.model, **LONG,
                                       extra_headers={"x-request-timeout-ms": "100"})
    assert caught.value.status_code == 504
    slow.wait_until_idle()


def test_a_failure_within_a_stream_is_an_api_error_after_the_text_so_far(slow):
    with openai_client(slow) as client:
        stream = client.chat.completions.create(model=slow.model, stream=True, **LONG,
                                                extra_headers={"x-request-timeout-ms": "500"})
        num_chunks = 0
        with pytest.raises(openai.APIError) as caught:
            for _ in stream:
                num_chunks += 1
    assert num_chunks > 3 and "deadline" in caught.value.message
    slow.wait_until_idle()


@pytest.mark.parametrize("n", [1, 4])
def test_a_client_that_leaves_a_stream_frees_its_memory_at_once(slow, n):
    with openai_client(slow) as client:
        stream = client.chat.completions.create(model=slow.model, stream=True, n=n, **LONG)
        for _ in range(3 * n):
            next(stream)
        before = slow.metrics()
        assert before["vllm:num_requests_running"] == n and before["vllm:kv_cache_usage_perc"] > 0
        stream.close()
    after = slow.wait_until_idle()
    num_steps = after["slipstream:engine_steps_total"] - before["slipstream:engine_steps_total"]
    assert num_steps < 25  # of the 200 it had asked for: half a second


def test_a_drain_refuses_new_work_without_a_retry_and_finishes_what_runs(start):
    server = start("--executor", "fake", "--fake-step-us", "20000")
    sent = []
    with httpx2.Client(event_hooks={"request": [lambda request: sent.append(request)]}) as http:
        client = openai_client(server, http_client=http, max_retries=3)
        stream = client.chat.completions.create(model=server.model, stream=True,
                                                **{**LONG, "max_tokens": 60})
        next(stream)
        server.interrupt()
        deadline = time.monotonic() + 5
        while requests.get(server.url + "/readyz", timeout=5).status_code == 200:
            assert time.monotonic() < deadline
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model=server.model, messages=MESSAGES, max_tokens=1)
        assert caught.value.status_code == 503 and len(sent) == 2  # x-should-retry: false
        reasons = [chunk.choices[0].finish_reason for chunk in stream]
    assert reasons[-1] == "length"
    assert server.process.wait(timeout=30) == 0


def test_a_dead_server_is_a_connection_error(start):
    server = start()
    assert server.stop() == 0
    with openai_client(server) as client, pytest.raises(openai.APIConnectionError):
        client.models.list()
