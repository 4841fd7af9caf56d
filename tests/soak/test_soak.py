"""Half an hour of random use: streams of every sort, clients that leave at any moment, bad bodies.

Protects two promises: memory stays flat and no KV block leaks. Slow; its length is an option:
pytest tests/soak --soak-minutes 30
"""

import json
import os
import random
import re
import socket
import threading
import time
from urllib.parse import urlsplit

import pytest

from live_server import STORIES, LiveServer

NUM_CLIENTS = 6
SEED = 20261126
WARM_UP_SHARE = 0.2  # caches, pools and the allocator's own reserves fill first
MAX_GROWTH_BYTES = 8 << 20


def rss_bytes(process):
    status = open(f"/proc/{process.pid}/status", encoding="ascii").read()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) * 1024


def num_files(process):
    return len(os.listdir(f"/proc/{process.pid}/fd"))


class Client(threading.Thread):
    """Sends one request after the other until told to stop; counts what came of them."""

    def __init__(self, address, seed, stop):
        super().__init__()
        self.address, self.random, self.stop = address, random.Random(seed), stop
        self.num_complete = self.num_left = self.num_refused = 0
        self.problems = []

    def run(self):
        while not self.stop.is_set():
            try:
                self.one_request()
            except (ConnectionResetError, BrokenPipeError, socket.timeout) as error:
                self.problems.append(repr(error))

    def body(self):
        chance = self.random.random()
        if chance < 0.05:
            return self.random.choice([b"{", b"[]", b'{"prompt": 7}', b'{"n": -1}', b"\xff"])
        words = ["Once", "upon", "a", "time", "Lily", "and", "Tom", "saw", "the", "dog"]
        prompt = " ".join(self.random.choices(words, k=self.random.randint(1, 60)))
        request = {"prompt": prompt, "max_tokens": self.random.randint(1, 200),
                   "stream": self.random.random() < 0.8, "n": self.random.choice([1, 1, 1, 3])}
        if self.random.random() < 0.3:
            request["temperature"] = 0
        if self.random.random() < 0.2:
            request["logprobs"] = 3
        if self.random.random() < 0.2:
            request["stop"] = ["the", " dog"]
        return json.dumps(request).encode()

    def one_request(self):
        body = self.body()
        leave_after = self.random.choice([None, None, 0, 1, 500, 3000])  # bytes read
        with socket.create_connection(self.address, timeout=60) as connection:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: soak\r\n"
                               b"content-type: application/json\r\nconnection: close\r\n"
                               b"content-length: %d\r\n\r\n" % len(body) + body)
            received = b""
            while leave_after is None or len(received) < leave_after:
                part = connection.recv(65536)
                if not part:
                    break
                received += part
            else:
                self.num_left += 1
                return
        if received.startswith(b"HTTP/1.1 200"):
            self.num_complete += 1
        elif received.startswith(b"HTTP/1.1 4"):
            self.num_refused += 1
        else:
            self.problems.append(repr(received[:200]))


@pytest.mark.slow
def test_memory_stays_flat_and_no_block_leaks(tmp_path, request):
    if not STORIES.is_dir():
        pytest.skip(f"{STORIES} is not there")
    seconds = request.config.getoption("--soak-minutes", 30.0) * 60
    with LiveServer(STORIES, tmp_path, "--max-num-seqs", "8", "--kv-cache-memory-bytes", "4000000",
                    "--no-access-log") as server:
        parts = urlsplit(server.url)
        stop = threading.Event()
        clients = [Client((parts.hostname, parts.port), SEED + i, stop) for i in range(NUM_CLIENTS)]
        for client in clients:
            client.start()
        begin = time.monotonic()
        samples = []
        while (now := time.monotonic() - begin) < seconds:
            assert server.process.poll() is None, server.log()
            samples.append((now, rss_bytes(server.process), num_files(server.process)))
            stop.wait(max(0.5, seconds / 600))
        stop.set()
        for client in clients:
            client.join()
        metrics = server.wait_until_idle()
        problems = [problem for client in clients for problem in client.problems]
        totals = {name: sum(getattr(client, name) for client in clients)
                  for name in ("num_complete", "num_left", "num_refused")}
        settled = [rss for at, rss, _ in samples if at >= WARM_UP_SHARE * seconds]
        third = max(1, len(settled) // 3)
        growth = sorted(settled[-third:])[third // 2] - sorted(settled[:third])[third // 2]
        print(f"\nsoak: {seconds:.0f} s, {totals}, RSS {settled[0] >> 10} kB, growth {growth >> 10} kB, "
              f"files {samples[0][2]}..{max(files for *_, files in samples)}, "
              f"preemptions {metrics['vllm:num_preemptions_total']:.0f}")
        assert not problems, problems[:5]
        assert totals["num_complete"] > 0 and totals["num_left"] > 0
        assert growth <= MAX_GROWTH_BYTES, f"memory grew by {growth} bytes"
        assert num_files(server.process) <= samples[0][2] + NUM_CLIENTS
        assert server.stop() == 0
