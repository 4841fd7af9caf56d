"""LangChain's OpenAI classes get texts, metadata and usage as from the original."""

import asyncio

import openai
import pytest
from langchain_openai import ChatOpenAI, OpenAI

QUESTION = [("system", "You are brief."), ("human", "Say hello.")]


def chat_model(server, **options):
    return ChatOpenAI(base_url=server.api, api_key="none",
                      **{"model": server.model, "temperature": 0, "max_tokens": 12,
                         "max_retries": 0, **options})


def test_an_answer_brings_its_metadata_and_usage(server):
    message = chat_model(server).invoke(QUESTION)
    assert message.content
    metadata = message.response_metadata
    assert metadata["model_name"] == server.model
    assert metadata["finish_reason"] in ("stop", "length")
    assert metadata["system_fingerprint"]
    usage = message.usage_metadata
    assert usage["input_tokens"] > 0 and 0 < usage["output_tokens"] <= 12
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_a_stream_adds_up_to_the_answer(server):
    whole = chat_model(server).invoke(QUESTION)
    total = None
    for chunk in chat_model(server, stream_usage=True).stream(QUESTION):
        total = chunk if total is None else total + chunk
    assert total.content == whole.content
    assert total.response_metadata["finish_reason"] == whole.response_metadata["finish_reason"]
    for name in ("input_tokens", "output_tokens", "total_tokens"):
        assert total.usage_metadata[name] == whole.usage_metadata[name]


def test_async_streams_and_batches_agree_with_single_answers(server):
    model = chat_model(server)
    questions = [[("human", f"Count to {count}.")] for count in range(4)]
    alone = [model.invoke(question).content for question in questions]
    assert [message.content for message in model.batch(questions)] == alone

    async def streamed(question):
        return "".join([chunk.content async for chunk in model.astream(question)])

    async def together():
        return await asyncio.gather(*map(streamed, questions))

    assert asyncio.run(together()) == alone


def test_log_probabilities_arrive(server):
    message = chat_model(server, logprobs=True, top_logprobs=2).invoke(QUESTION)
    entries = message.response_metadata["logprobs"]["content"]
    assert len(entries) == message.usage_metadata["output_tokens"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in entries)


def test_stop_and_seed_are_passed_on(server):
    model = chat_model(server, temperature=1.0, seed=3, max_tokens=16)
    first = model.invoke(QUESTION).content
    assert model.invoke(QUESTION).content == first
    stop = first[3:5]
    stopped = model.invoke(QUESTION, stop=[stop])
    assert stopped.content == first[:first.index(stop)]
    assert stopped.response_metadata["finish_reason"] == "stop"


def test_completions_of_the_llm_class_stream_too(server):
    model = OpenAI(base_url=server.api, api_key="none", model=server.model, temperature=0,
                   max_tokens=12, max_retries=0)
    whole = model.invoke("Once upon a time")
    assert whole and "".join(model.stream("Once upon a time")) == whole


def test_errors_are_the_clients_classes(stories):
    with pytest.raises(openai.NotFoundError):
        chat_model(stories, model="gpt-4").invoke(QUESTION)
    with pytest.raises(openai.BadRequestError):
        chat_model(stories, top_p=2).invoke(QUESTION)
