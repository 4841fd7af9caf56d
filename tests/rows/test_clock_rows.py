"""Rows R12 and S15: the wall clock jumps under a live server, and no deadline moves with it."""

import mmap
import os
import pathlib
import struct
import subprocess
import time

import pytest

from row_tools import WAIT_S, Client, Stream, started_by

COMPLETIONS = "/v1/completions"
HOUR_S = 3600


class WallClock:
    def __init__(self, path):
        path.write_bytes(struct.pack("l", 0))
        with path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), struct.calcsize("l"))

    def set(self, seconds):
        self.memory[:] = struct.pack("l", seconds)


@pytest.fixture
def clock(tmp_path, monkeypatch):
    source = pathlib.Path(__file__).with_name("clock_jump.c")
    library = tmp_path / "clock_jump.so"
    subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O1", "-o", library, source],
                   check=True)
    clock = WallClock(tmp_path / "seconds")
    with started_by(f'LD_PRELOAD={library} CLOCK_JUMP_FILE={tmp_path / "seconds"} '
                    'exec "$BINARY" "$@"', tmp_path / "bin", monkeypatch):
        yield clock


def test_R12_S15_a_wall_clock_that_jumps_moves_no_deadline(clock, start):
    server = start("--executor", "fake", "--fake-step-us", "10000")
    body = {"prompt": "Once", "ignore_eos": True, "stream": True}
    with Client(server) as client, Client(server) as late_client:
        created = []
        for jump in (0, HOUR_S, -HOUR_S, 0):
            events = client.events(COMPLETIONS, {**body, "max_tokens": 60},
                                   {"x-request-timeout-ms": "30000"})
            created.append(next(events)["created"])
            begin = time.monotonic()
            late = late_client.send("POST", COMPLETIONS,
                                    {**body, "max_tokens": 400, "stream": False},
                                    {"x-request-timeout-ms": "500"})
            clock.set(jump)
            answer = late.answer()
            assert answer.status == 504 and answer.error["code"] == "deadline_exceeded"
            assert 0.4 < time.monotonic() - begin < WAIT_S / 2
            assert Stream(events).finish == "length"
            with Client(server) as newcomer:
                assert newcomer.ask("GET", "/readyz").status == 200
        # The clock did jump: what is told of wall time follows it.
        assert created[2] - created[1] > HOUR_S / 2 and created[3] - created[2] < -HOUR_S
