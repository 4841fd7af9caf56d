"""The stock openai client's Responses API: whole and streamed answers, and what is refused."""

import openai
import pytest

from conftest import openai_client, post

INPUT = "Tell a story about a cat — naïve, 猫, 🐈."
EVENTS = ["response.created", "response.in_progress", "response.output_item.added",
          "response.content_part.added", "response.output_text.done",
          "response.content_part.done", "response.output_item.done"]


def create(client, server, **params):
    return client.responses.create(**{"model": server.model, "input": INPUT, "temperature": 0,
                                      "max_output_tokens": 24, **params})


def test_a_response_has_the_fields_the_client_reads(client, server):
    response = create(client, server, instructions="You are brief.", metadata={"k": "v"})
    assert response.id.startswith("resp_") and response.object == "response"
    assert response.output_text == response.output[0].content[0].text
    assert response.output[0].role == "assistant" and response.output[0].id.startswith("msg_")
    assert response.model == server.model
    assert response.instructions == "You are brief." and response.metadata == {"k": "v"}
    assert response.temperature == 0 and response.max_output_tokens == 24
    assert response.error is None and response.previous_response_id is None
    assert response.to_dict()["store"] is False
    usage = response.usage
    assert 0 < usage.output_tokens <= 24 and usage.input_tokens > 0
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert 0 <= usage.input_tokens_details.cached_tokens < usage.input_tokens
    if usage.output_tokens == 24:
        assert response.status == "incomplete"
        assert response.incomplete_details.reason == "max_output_tokens"
    else:
        assert response.status == "completed" and response.incomplete_details is None


@pytest.mark.parametrize("params", [{}, {"temperature": 1.0, "extra_body": {"seed": 7}}],
                         ids=["greedy", "sampled"])
def test_a_streamed_response_is_the_whole_one(client, server, params):
    whole = create(client, server, **params)
    events = list(create(client, server, stream=True, **params))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    types = [event.type for event in events]
    assert [each for each in types if each in EVENTS] == EVENTS
    assert types[-1] == f"response.{whole.status}"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text
    last = events[-1].response
    assert last.output_text == text and last.status == whole.status
    assert last.usage.output_tokens == whole.usage.output_tokens


def test_the_clients_own_stream_helper_follows_the_events(client, server):
    with client.responses.stream(model=server.model, input=INPUT, temperature=0,
                                 max_output_tokens=16) as stream:
        snapshots = [event.snapshot for event in stream
                     if event.type == "response.output_text.delta"]
    whole = create(client, server, max_output_tokens=16)
    assert snapshots[-1] == whole.output_text
    assert all(b.startswith(a) for a, b in zip(snapshots, snapshots[1:]))


def test_a_response_answers_as_the_same_chat_does(client, server):
    response = create(client, server, instructions="You are brief.")
    chat = client.chat.completions.create(
        model=server.model, temperature=0, max_tokens=24,
        messages=[{"role": "system", "content": "You are brief."},
                  {"role": "user", "content": INPUT}])
    assert response.output_text == chat.choices[0].message.content
    assert response.usage.input_tokens == chat.usage.prompt_tokens


def test_an_answer_goes_back_in_as_it_came(client, server):
    first = create(client, server)
    again = create(client, server, input=[{"role": "user", "content": INPUT}]
                   + [item.to_dict() for item in first.output]
                   + [{"role": "user", "content": [{"type": "input_text", "text": "Go on."}]}])
    assert again.usage.input_tokens > first.usage.input_tokens


def test_logprobs_come_when_they_are_included(client, server):
    params = {"include": ["message.output_text.logprobs"], "top_logprobs": 3}
    whole = create(client, server, **params)
    scores = whole.output[0].content[0].logprobs
    assert len(scores) > 0 and all(len(score.top_logprobs) == 3 for score in scores)
    events = create(client, server, stream=True, **params)
    streamed = [score for event in events if event.type == "response.output_text.delta"
                for score in event.logprobs]
    assert [each.logprob for each in streamed] == [each.logprob for each in scores]
    assert [each.token for each in streamed] == [each.token for each in scores]


@pytest.mark.parametrize("extra, param", [
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"background": True}, "background"),
    ({"tools": [{"type": "web_search"}]}, "tools"),
    ({"text": {"format": {"type": "json_object"}}}, "text.format"),
    ({"max_output_tokens": 10 ** 6}, "max_output_tokens"),
    ({"input": []}, "input"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
     "input[0].content[0]"),
])
def test_what_it_cannot_do_is_a_bad_request(stories, extra, param):
    with openai_client(stories) as client, pytest.raises(openai.BadRequestError) as caught:
        create(client, stories, **extra)
    assert caught.value.param == param


def test_an_unknown_model_is_not_found(stories):
    with openai_client(stories) as client, pytest.raises(openai.NotFoundError) as caught:
        create(client, stories, model="gpt-9")
    assert caught.value.code == "model_not_found"


def test_a_failing_stream_raises_behind_the_failed_response(slow):
    types = []
    with openai_client(slow) as client, pytest.raises(openai.APIError) as caught:
        for event in create(client, slow, stream=True, max_output_tokens=None,
                            extra_headers={"x-request-timeout-ms": "500"},
                            extra_body={"ignore_eos": True}):
            types.append(event.type)
    assert types[0] == "response.created" and types[-1] == "response.failed"
    assert caught.value.code == "deadline_exceeded"


def test_truncation_keeps_the_newest_turns(stories):
    long = [{"role": "user", "content": "word " * 200}, {"role": "user", "content": INPUT}]
    assert post(stories, "/v1/responses", {"input": long * 4}).json()["error"]["code"] \
        == "context_length_exceeded"
    body = {"input": long * 4, "truncation": "auto", "max_output_tokens": 5}
    answer = post(stories, "/v1/responses", body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["truncation"] == "auto"
