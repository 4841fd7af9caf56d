"""Row R8: allocations of a live server fail, one after the other and many in a row."""

import contextlib
import mmap
import os
import pathlib
import struct
import subprocess
import sys
import time
from http.client import HTTPException

import pytest

from row_tools import CANARY, Client, Refused, Stream, started_by, wait_until

TEXT = "Once upon a time"
CHAT = {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 4}
# What each kind of work allocates on its way is tried one by one.
WORK = {
    "completion": ("/v1/completions", {"prompt": TEXT, "max_tokens": 4, "n": 2, "logprobs": 2}),
    "stream": ("/v1/completions", {"prompt": TEXT, "max_tokens": 4, "stream": True}),
    "chat": ("/v1/chat/completions", CHAT),
    "messages": ("/v1/messages", CHAT),
    "responses": ("/v1/responses", {"input": TEXT, "max_output_tokens": 4}),
    "large": ("/tokenize", {"prompt": TEXT * 2000}),  # of a size that goes to a worker
    "metrics": ("/metrics", None),
}
# The server's reserve is 16 failures; a timer of its network thread takes them back every 200 ms. A
# busy machine may be late once: the reserve lasts for two waits.
MOST_FAILURES = 7
RESERVE_BACK_S = 0.25
MOST_ALLOCATIONS = 3000
PLENTY = -(1 << 62)  # see failing_malloc.c


HOG = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
usage = folder / ("memory.current" if sys.argv[2] == "memory.max" else "memory.usage_in_bytes")
limit = int((folder / sys.argv[2]).read_text())
kept = []
while int(usage.read_text()) < limit - limit // 50:
    kept.append(b"x" * (1 << 20))
time.sleep(600)
"""


class Memory:
    """How many allocations of a server succeed before some fail."""

    def __init__(self, path):
        path.write_bytes(struct.pack("ll", PLENTY, 0))
        with path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 2 * struct.calcsize("l"))

    def fail(self, after, count):
        self.memory[8:] = struct.pack("l", count)
        self.memory[:8] = struct.pack("l", after)

    def recover(self):
        """Whether any allocation has failed."""
        num_left = struct.unpack("l", self.memory[:8])[0]
        self.memory[:8] = struct.pack("l", PLENTY)
        return num_left < 0


@pytest.fixture
def memory(tmp_path, monkeypatch):
    source = pathlib.Path(__file__).with_name("failing_malloc.c")
    library = tmp_path / "failing_malloc.so"
    subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O1", "-o", library, source],
                   check=True)
    memory = Memory(tmp_path / "plan")
    with started_by(f'LD_PRELOAD={library} FAILING_MALLOC_FILE={tmp_path / "plan"} '
                    'exec "$BINARY" "$@"', tmp_path / "bin", monkeypatch):
        yield memory


def outcome(server, path, body):
    """The status of an answer; 0 when the connection ended without one."""
    try:
        with Client(server) as client:
            if body is not None and body.get("stream"):
                Stream(client.events(path, body))
                return 200
            return client.ask("POST" if body else "GET", path, body).status
    except Refused as refused:
        return refused.status
    except (EOFError, ConnectionError):
        return 0


def is_ready(server):
    with contextlib.suppress(OSError, EOFError), Client(server) as client:
        return client.ask("GET", "/readyz").status == 200
    return False


def wait_for_reserve(server):
    """By now the timer is due, and the thread that answers has run it, however busy the machine."""
    time.sleep(RESERVE_BACK_S)
    wait_until(lambda: is_ready(server), "ready, its reserve whole")


def is_idle(server):
    """Ready and without work; a server on its way to its end may answer one and not the other."""
    with contextlib.suppress(OSError, HTTPException):
        return is_ready(server) and server.is_idle()
    return False


def test_R8_an_allocation_that_fails_ends_nothing(memory, start):
    server = start("-t", "1")
    with Client(server) as client:
        canary = client.post("/v1/completions", CANARY).json()["choices"]
    num_failures = 0
    for name, (path, body) in WORK.items():
        assert outcome(server, path, body) == 200, name
        for after in range(MOST_ALLOCATIONS):
            memory.fail(after, 1)
            status = outcome(server, path, body)
            failed = memory.recover()
            assert server.process.poll() is None, (name, after, server.log()[-2000:])
            # What C libraries allocate does not fall back on the reserve.
            assert status in (200, 500), (name, after, status, num_failures, server.log()[-900:])
            if not failed:
                break
            num_failures += 1
            if num_failures % MOST_FAILURES == 0:
                wait_for_reserve(server)
        assert 10 < after < MOST_ALLOCATIONS - 1, f"{name}: {after} allocations"
    wait_until(lambda: is_ready(server), "ready again")
    server.wait_until_idle()
    with Client(server) as client:
        assert client.post("/v1/completions", CANARY).json()["choices"] == canary
    assert server.stop() == 0


def test_R8_memory_that_stays_away_costs_requests_or_an_orderly_end(memory, start):
    """Hundreds of failures in a row, more than any reserve holds."""
    server = None
    num_refused = 0
    for name, (path, body) in WORK.items():
        for after in range(0, 150, 11):
            if server is None or server.process.poll() is not None:
                server = start("-t", "1")
                assert outcome(server, path, body) == 200
            memory.fail(after, 400)
            status = outcome(server, path, body)
            num_refused += status != 200
            memory.recover()
            wait_until(lambda: server.process.poll() is not None or is_idle(server), "ready, idle")
            print(name, after, status, server.process.poll())
            if server.process.poll() is not None:
                assert server.process.returncode in (1, -6), server.log()[-2000:]
    assert num_refused > 0


@pytest.fixture
def group():
    """A control group of one's own with a memory limit: (folder, the file of the limit)."""
    for line in pathlib.Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        root = pathlib.Path("/sys/fs/cgroup") / ("memory" if controllers else "")
        if controllers not in ("", "memory"):
            continue
        folder = root / path.lstrip("/") / f"slipstream-rows-{os.getpid()}"
        with contextlib.suppress(OSError):
            folder.mkdir()
            limits = [name for name in ("memory.max", "memory.limit_in_bytes")
                      if (folder / name).exists()]
            if limits:
                yield folder, limits[0]
            wait_until(lambda folder=folder: removed(folder), "no process is left in the group")
            if limits:
                return
    pytest.skip("no control group with a memory limit can be made here")


def removed(folder):
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()


def test_R9_near_the_limit_of_a_container_new_work_is_refused(group, start, tmp_path, monkeypatch):
    folder, limit = group
    (folder / limit).write_text(str(1 << 30))
    joins = f"echo $$ > {folder}/cgroup.procs;"
    with started_by(f'{joins} exec "$BINARY" "$@"', tmp_path / "bin", monkeypatch):
        server = start("-t", "1")
    body = {"prompt": TEXT, "max_tokens": 4}
    assert outcome(server, "/v1/completions", body) == 200
    # A neighbour in the container takes nearly all of it, so that less than 1/32 is left.
    hog = subprocess.Popen(["sh", "-c", f'{joins} exec "{sys.executable}" -c "$0" {folder} {limit}',
                            HOG], start_new_session=True)
    try:
        wait_until(lambda: outcome(server, "/v1/completions", body) == 429, "refused")
        assert outcome(server, "/livez", None) == 200 and not is_ready(server)
    finally:
        os.killpg(hog.pid, 9)
        hog.wait()
    wait_until(lambda: outcome(server, "/v1/completions", body) == 200, "memory is back")
    assert server.stop() == 0
