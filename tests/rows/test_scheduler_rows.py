"""Rows S: what many requests do to each other, on live servers with small pools and short queues.

Rows that need a virtual clock or a planted hash are the simulator's and unit tests; README.md says
which.
"""

import random
import selectors
import threading

import pytest

from row_tools import (KEY, Client, Reader, Row, Stream, connect, events_of, raise_file_limit,
                       request_bytes, reset)

COMPLETIONS = "/v1/completions"
BLOCK_BYTES = 5 * 2 * 4 * 8 * 2 * 16  # stories260K: layers, K and V, heads, width, f16, positions


def body_of(rng, longest=90):
    num_prompt = rng.randrange(1, longest - 10)
    return {"prompt": [1] + [rng.randrange(3, 512) for _ in range(num_prompt - 1)],
            "max_tokens": rng.randrange(1, longest - num_prompt), "ignore_eos": True,
            "temperature": rng.choice([0, 0.8]), "seed": rng.randrange(2 ** 31),
            "return_token_ids": True, "logprobs": rng.choice([None, 2])}


def answers_at_once(server, bodies, num_clients):
    """The choices of every body, asked by so many clients side by side."""
    found = [None] * len(bodies)
    places = iter(range(len(bodies)))
    lock = threading.Lock()

    def ask():
        with Client(server) as client:
            while True:
                with lock:
                    idx = next(places, None)
                if idx is None:
                    return
                if idx % 2:
                    stream = client.stream(COMPLETIONS, bodies[idx])
                    found[idx] = stream.ids, stream.text
                else:
                    choice = client.post(COMPLETIONS, bodies[idx]).json()["choices"][0]
                    found[idx] = choice["token_ids"], choice["text"]

    threads = [threading.Thread(target=ask) for _ in range(num_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def answers_alone(server, bodies):
    return answers_at_once(server, bodies, 1)


def test_S1_a_request_that_no_pool_holds_is_refused_and_blocks_nobody(start):
    server = start("-t", "1", "--kv-cache-memory-bytes", 6 * BLOCK_BYTES)
    row = Row(server, victim_tokens=40)
    with row.unharmed(), Client(server) as client:
        for prompt, max_tokens in (([7] * 400, 10), ([7] * 10, 500), ([7] * 97, 1), ([7] * 50, 47)):
            answer = client.post(COMPLETIONS, {"prompt": prompt, "max_tokens": max_tokens})
            assert answer.status == 400 and answer.error["code"] == "context_length_exceeded"
            assert " 96 tokens" in answer.error["message"]  # what 6 blocks hold
        body = {"prompt": [7] * 50, "max_tokens": 46, "ignore_eos": True}
        answer = client.post(COMPLETIONS, body)
        assert answer.json()["usage"]["completion_tokens"] == 46


@pytest.mark.parametrize("num_blocks", [1, 2, 3, 8])
def test_S2_S6_a_pool_of_few_blocks_serves_all_with_the_tokens_of_each_alone(
        start, real_row, num_blocks):
    rng = random.Random(num_blocks)
    bodies = [body_of(rng, 16 * min(num_blocks, 5)) for _ in range(64)] if num_blocks > 1 else [
        {**body_of(rng), "prompt": [1, rng.randrange(3, 512)], "max_tokens": 14} for _ in range(64)]
    want = answers_alone(real_row.server, bodies)
    server = start("-t", "1", "--kv-cache-memory-bytes", num_blocks * BLOCK_BYTES,
                   "--max-num-seqs", "16")
    assert answers_at_once(server, bodies, 16) == want
    metrics = server.wait_until_idle()
    assert metrics["vllm:request_success_total"] == 64
    if num_blocks == 8:
        # On a busy machine the clients may ask too slowly for two answers to be in the pool at once.
        for _ in range(5):
            if metrics["vllm:num_preemptions_total"] > 0:
                break
            assert answers_at_once(server, bodies, 16) == want
            metrics = server.wait_until_idle()
        assert metrics["vllm:num_preemptions_total"] > 0, "nothing was computed again"


def leave_after(server, body, num_events):
    """Asks, reads so many events (None: not even the head), and resets."""
    sock = connect(server)
    sock.sendall(request_bytes(server, "POST", COMPLETIONS, {**body, "stream": True}))
    if num_events is not None:
        reader = Reader(sock)
        assert reader.head()[0] == 200
        events = events_of(reader)
        for _ in range(num_events):
            next(events)
    reset(sock)


@pytest.mark.parametrize("flags", [(), ("--no-one-ahead",), ("--no-enable-prefix-caching",),
                                   ("--max-num-batched-tokens", "16")],
                         ids=["default", "not-ahead", "no-cache", "chunks"])
def test_S3_S5_aborts_in_every_state_leak_nothing_and_harm_nobody(start, flags):
    server = start("-t", "1", "--max-num-seqs", "6", "--kv-cache-memory-bytes", 40 * BLOCK_BYTES,
                   *flags)
    row = Row(server, victim_tokens=100)
    rng = random.Random(3)
    with row.unharmed():
        for _ in range(60):
            body = {"prompt": [1] + [rng.randrange(3, 512) for _ in range(rng.choice([2, 300]))],
                    "max_tokens": rng.choice([1, 2, 200]), "ignore_eos": True, "temperature": 0}
            leave_after(server, body, None if rng.random() < 0.6 else 1)
        # One answer of several, and all of several.
        body = {"prompt": "Once", "max_tokens": 200, "ignore_eos": True, "n": 8}
        leave_after(server, body, None)
        leave_after(server, body, 5)


def test_S6_S8_a_prefix_found_in_the_cache_gives_the_tokens_of_a_cold_start(start):
    cold = start("-t", "1", "--no-enable-prefix-caching")
    warm = start("-t", "1", "--kv-cache-memory-bytes", 64 * BLOCK_BYTES)
    rng = random.Random(8)
    prefix = [1] + [rng.randrange(3, 512) for _ in range(79)]
    bodies = []
    for _ in range(40):  # diverging within blocks and at their ends
        cut = rng.choice([15, 16, 17, 31, 32, 33, 47, 64, 79, 80])
        tail = [rng.randrange(3, 512) for _ in range(rng.randrange(0, 40))]
        bodies.append({**body_of(rng), "prompt": prefix[:cut] + tail, "max_tokens": 12})
    want = answers_alone(cold, bodies)
    for num_clients in (1, 8):
        assert answers_at_once(warm, bodies, num_clients) == want
    assert warm.metrics()["vllm:prefix_cache_hits_total"] > 0
    assert cold.metrics()["vllm:prefix_cache_hits_total"] == 0


def test_S10_short_prompts_get_their_tokens_while_a_long_one_is_computed(start):
    server = start("--executor", "fake", "--fake-step-us", "10000", "--max-num-batched-tokens",
                   "16", "--max-num-seqs", "8")
    with Client(server) as long, Client(server) as short:
        reader = long.send("POST", COMPLETIONS, {"prompt": [7] * 500, "max_tokens": 1,
                                                 "stream": True})
        server.wait_for(lambda m: m["vllm:num_requests_running"] == 1, "the long one is there")
        for _ in range(3):
            body = {"prompt": [9] * 4, "max_tokens": 2, "ignore_eos": True}
            assert short.post(COMPLETIONS, body).status == 200
        # 500 tokens of 16 a step take 32 steps and more; these took a few each.
        assert server.metrics()["vllm:num_requests_running"] == 1, "the long one came first"
        assert reader.head()[0] == 200
        assert Stream(events_of(reader)).finish == "length"


def test_S11_everyone_is_served_whatever_the_priorities(start):
    server = start("--executor", "fake", "--fake-step-us", "1000", "--max-num-seqs", "2")
    rng = random.Random(11)
    bodies = [{"prompt": [9, idx % 500], "max_tokens": 6, "ignore_eos": True,
               "return_token_ids": True, "priority": rng.choice([-1_000_000, 0, 5, 1_000_000])}
              for idx in range(120)]
    assert all(len(ids) == 6 for ids, _ in answers_at_once(server, bodies, 24))


def burst(server, count):
    """Statuses of so many requests sent at once, each with its own connection; all are answered."""
    data = request_bytes(server, "POST", COMPLETIONS, {
        "prompt": "Once", "max_tokens": 4, "ignore_eos": True}, {"connection": "close"})
    statuses = []
    with selectors.DefaultSelector() as selector:
        for _ in range(count):
            sock = connect(server)
            sock.sendall(data)
            selector.register(sock, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(60)
            assert ready, f"{len(selector.get_map())} of {count} requests hang"
            for key, _ in ready:
                selector.unregister(key.fileobj)
                answer = Reader(key.fileobj).answer()
                statuses.append(answer.status)
                if answer.status == 429:
                    assert answer.error["type"] == "rate_limit_error"
                    assert answer.error["code"] == "rate_limit_exceeded"
                    assert int(answer.headers["retry-after"]) >= 1
                key.fileobj.close()
    return statuses


def test_S12_a_burst_beyond_the_queue_is_refused_at_once_and_none_hangs(slow):
    statuses = burst(slow, 400)
    assert set(statuses) == {200, 429}
    assert 400 > statuses.count(429) >= 300


@pytest.mark.slow
def test_S12_a_burst_of_a_hundred_thousand(slow):
    assert raise_file_limit(3000)
    for _ in range(50):
        assert set(burst(slow, 2000)) <= {200, 429}


def run_two_lengths(server, num_runs):
    bodies = [{"prompt": [1] + [7 + (idx * 3 + size) % 500 for idx in range(size - 1)],
               "max_tokens": 24, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
              for size in (128, 256)]
    want = answers_alone(server, bodies)
    assert answers_at_once(server, bodies * num_runs, 2) == want * num_runs


def test_S13_two_lengths_at_once_never_diverge(start):
    run_two_lengths(start("-t", "2", "--no-enable-prefix-caching"), 60)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--no-enable-prefix-caching",),
                                   ("--max-num-batched-tokens", "48")], ids=str)
def test_S13_a_thousand_times(start, flags):
    run_two_lengths(start("-t", "2", *flags), 1000)


def test_S18_keys_share_no_cached_prefix(start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"one:{KEY}\ntwo:{KEY}-two\n")
    server = start("-t", "1", "--api-key-file", keys)
    body = {"prompt": [1] + [9] * 100, "max_tokens": 1}

    def num_cached(key, **extra):
        answer = client.post(COMPLETIONS, {**body, **extra}, {"authorization": f"Bearer {key}"})
        return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]

    with Client(server) as client:
        assert num_cached(KEY) == 0
        assert num_cached(KEY) == 96
        assert num_cached(KEY + "-two") == 0
        assert num_cached(KEY, cache_salt="x") == 0
        assert num_cached(KEY + "-two") == 96


def test_S22_batches_around_the_largest_give_the_same_tokens(start, real_row):
    rng = random.Random(22)
    bodies = [body_of(rng) for _ in range(18)]
    want = answers_alone(real_row.server, bodies)
    server = start("-t", "1", "--max-num-seqs", "4")
    for num_clients in (3, 4, 5, 9):
        assert answers_at_once(server, bodies, num_clients) == want
