"""Many answers at once over one client: each is what it would be alone."""

import asyncio

import openai
import pytest

from conftest import async_client, openai_client

PROMPTS = [f"Once there was a {animal} who" for animal in
           ("cat", "dog", "bird", "fish", "fox", "bear", "cow", "pig")]


def params_of(server, idx):
    return dict(model=server.model, prompt=PROMPTS[idx % len(PROMPTS)], max_tokens=12 + idx,
                temperature=0.8, seed=idx)


async def text_of_stream(client, params):
    stream = await client.completions.create(**params, stream=True)
    return "".join([chunk.choices[0].text async for chunk in stream])


def test_concurrent_streams_get_the_tokens_they_get_alone(server):
    with openai_client(server) as client:
        alone = [client.completions.create(**params_of(server, idx)).choices[0].text
                 for idx in range(16)]

    async def together():
        async with async_client(server) as client:
            return await asyncio.gather(*(text_of_stream(client, params_of(server, idx))
                                          for idx in range(16)))

    assert asyncio.run(together()) == alone


def test_a_cancelled_task_cancels_its_request_and_no_other(slow):
    async def ask(client, max_tokens):
        stream = await client.completions.create(
            model=slow.model, prompt="a", max_tokens=max_tokens, stream=True,
            extra_body={"ignore_eos": True})
        return [chunk async for chunk in stream]

    async def scenario():
        async with async_client(slow) as client:
            long_one = asyncio.create_task(ask(client, 200))
            short_one = asyncio.create_task(ask(client, 30))
            while (await asyncio.to_thread(slow.metrics))["vllm:num_requests_running"] < 2:
                await asyncio.sleep(0.01)
            long_one.cancel()
            with pytest.raises(asyncio.CancelledError):
                await long_one
            return await short_one

    chunks = asyncio.run(scenario())
    assert chunks[-1].choices[0].finish_reason == "length"
    slow.wait_until_idle()


def test_errors_of_the_async_client_are_the_same(stories):
    async def ask():
        async with async_client(stories) as client:
            await client.chat.completions.create(model="gpt-4", messages=[
                {"role": "user", "content": "x"}])

    with pytest.raises(openai.NotFoundError):
        asyncio.run(ask())
