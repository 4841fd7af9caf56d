"""The stock anthropic client: messages whole and streamed, counts, errors and their classes."""

import anthropic
import pytest
import requests

from conftest import KEY, openai_client, post

MESSAGES = [{"role": "user", "content": "Tell a story about a cat — naïve, 猫, 🐈."}]


def anthropic_client(server, key="none", **options):
    return anthropic.Anthropic(base_url=server.url, api_key=key,
                               **{"max_retries": 0, "timeout": 60, **options})


@pytest.fixture
def claude(server):
    with anthropic_client(server) as client:
        yield client


def arguments(server, **params):
    """Greedy unless told otherwise. This client has no arguments for sampling: they go beside."""
    extra = {"temperature": 0, **params.pop("extra_body", {})}
    return {"model": server.model, "messages": MESSAGES, "max_tokens": 24, "extra_body": extra,
            **params}


def create(client, server, **params):
    return client.messages.create(**arguments(server, **params))


def prompt_tokens(usage):
    return usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens


def test_a_message_has_the_fields_the_client_reads(claude, server):
    message = create(claude, server, system="You are brief.")
    assert message.id.startswith("msg_") and message.type == "message"
    assert message.role == "assistant" and message.model == server.model
    assert [block.type for block in message.content] == ["text"]
    assert message.stop_reason in ("end_turn", "max_tokens") and message.stop_sequence is None
    assert 0 < message.usage.output_tokens <= 24
    assert message._request_id, "the client finds no request-id header"


@pytest.mark.parametrize("params", [
    {},
    {"extra_body": {"temperature": 1.0, "top_k": 40, "top_p": 0.9, "seed": 7}},
    {"stop_sequences": ["e", "\n\n"]},
], ids=["greedy", "sampled", "stopped"])
def test_a_streamed_message_is_the_whole_one(claude, server, params):
    whole = create(claude, server, **params)
    with claude.messages.stream(**arguments(server, **params)) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == message.content[0].text == whole.content[0].text
    assert message.stop_reason == whole.stop_reason
    assert message.stop_sequence == whole.stop_sequence
    assert message.usage.output_tokens == whole.usage.output_tokens
    assert prompt_tokens(message.usage) == prompt_tokens(whole.usage)


def test_events_come_in_anthropics_order_each_with_its_name(stories):
    body = {"messages": MESSAGES, "max_tokens": 5, "stream": True}
    answer = post(stories, "/v1/messages", body, headers={"anthropic-version": "2023-06-01"})
    names = []
    for event in answer.text.removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        names.append(name.removeprefix("event: "))
        assert data.startswith('data: {"type":"' + names[-1] + '"')
    assert names[:3] == ["message_start", "content_block_start", "ping"]
    assert set(names[3:-3]) <= {"content_block_delta"}
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_a_message_answers_as_the_same_chat_does(claude, server):
    message = create(claude, server, system="You are brief.")
    with openai_client(server) as client:
        chat = client.chat.completions.create(
            model=server.model, temperature=0, max_tokens=24,
            messages=[{"role": "system", "content": "You are brief."}, *MESSAGES])
    assert message.content[0].text == chat.choices[0].message.content
    assert prompt_tokens(message.usage) == chat.usage.prompt_tokens


def test_a_stop_sequence_is_named_and_not_shown(claude, server):
    full = create(claude, server).content[0].text
    stop = full[5:7]
    message = create(claude, server, stop_sequences=["@@never@@", stop])
    assert message.stop_reason == "stop_sequence" and message.stop_sequence == stop
    assert stop not in message.content[0].text
    assert full.startswith(message.content[0].text)


def test_an_answer_goes_on_where_the_assistant_turn_ends(claude, server):
    full = create(claude, server).content[0].text
    begun = full[:len(full) // 2].rstrip()
    rest = create(claude, server,
                  messages=[*MESSAGES, {"role": "assistant", "content": begun}]).content[0].text
    assert rest and not rest.startswith(begun)
    again = create(claude, server, messages=[
        *MESSAGES, {"role": "assistant", "content": [{"type": "text", "text": begun}]}])
    assert again.content[0].text == rest


def test_the_count_is_what_the_message_is_charged(claude, server):
    args = {"messages": MESSAGES, "system": [{"type": "text", "text": "You are brief."}]}
    count = claude.messages.count_tokens(model=server.model, **args)
    message = create(claude, server, **args)
    assert count.input_tokens == prompt_tokens(message.usage)


def test_a_longer_answer_than_the_context_holds_ends_with_it(stories):
    with anthropic_client(stories) as client:
        message = create(client, stories, max_tokens=100_000, extra_body={"ignore_eos": True})
    assert message.stop_reason == "model_context_window_exceeded"


@pytest.mark.parametrize("extra", [
    {"tools": [{"name": "f", "input_schema": {"type": "object"}}]},
    {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    {"messages": []},
    {"messages": [{"role": "user", "content": [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
    ]}]},
    {"max_tokens": 0},
    {"extra_body": {"temperature": -1}},
    {"stop_sequences": [""]},
])
def test_what_it_cannot_do_is_a_bad_request(stories, extra):
    with anthropic_client(stories) as client:
        with pytest.raises(anthropic.BadRequestError) as caught:
            create(client, stories, **extra)
    body = caught.value.body
    assert body["type"] == "error" and body["error"]["type"] == "invalid_request_error"
    assert body["error"]["message"] and body["request_id"] == caught.value.request_id


def test_an_unknown_model_is_not_found(stories):
    with anthropic_client(stories) as client, pytest.raises(anthropic.NotFoundError) as caught:
        create(client, stories, model="claude-9")
    assert caught.value.body["error"]["type"] == "not_found_error"


def test_either_header_carries_the_key_and_a_wrong_one_is_refused_in_shape(start):
    server = start("--api-key", KEY)
    with anthropic_client(server, KEY) as client:
        assert create(client, server, max_tokens=2).usage.output_tokens > 0
    with anthropic.Anthropic(base_url=server.url, auth_token=KEY, max_retries=0) as client:
        assert create(client, server, max_tokens=2).usage.output_tokens > 0
    with anthropic_client(server, "wrong") as client:
        with pytest.raises(anthropic.AuthenticationError) as caught:
            create(client, server)
        assert caught.value.body["error"]["type"] == "authentication_error"
    body = requests.post(server.url + "/v1/messages/count_tokens", json={}, timeout=10).json()
    assert body["type"] == "error" and body["error"]["type"] == "authentication_error"


def test_a_failing_stream_raises_what_the_event_says(slow):
    with anthropic_client(slow) as client, pytest.raises(anthropic.APIStatusError) as caught:
        for _ in create(client, slow, stream=True, max_tokens=400,
                        extra_headers={"x-request-timeout-ms": "500"},
                        extra_body={"ignore_eos": True}):
            pass
    assert caught.value.body["error"]["type"] == "timeout_error"
