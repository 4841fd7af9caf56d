"""Rows S as one: random load on a real engine, every answer compared with the one alone.

`slipstream check soak` does the work and the judging; here its promises are held for a few seconds,
and for a minute. The sorts of load it draws are soak_workload_test's to know.
"""

import json
import signal
import subprocess

import pytest

from live_server import STORIES, find_binary

WAIT_S = 600


def soak_command(*flags):
    if not STORIES.is_dir():
        pytest.skip(f"{STORIES} is not there")
    return [find_binary(), "check", "soak", str(STORIES), "--device", "cpu", "--json",
            *map(str, flags)]


def soak(*flags):
    done = subprocess.run(soak_command(*flags), capture_output=True, text=True, timeout=WAIT_S,
                          check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    record = json.loads(done.stdout)
    assert record["passed"] and record["exact"] and not record["not_exercised"]
    for nothing in ("mismatches", "lost", "faults", "leaked_blocks"):
        assert record[nothing] == 0, (nothing, record)
    for something in ("requests", "tokens", "cancels", "preemptions", "prefix_hit_tokens",
                      "compared_tokens"):
        assert record[something] > 0, (something, record)
    assert record["same_token_share"] == 1
    return record


def test_R15_five_seconds_of_load_lose_nothing_and_change_no_answer():
    record = soak("--duration-s", 5, "--compare-every", 3, "--seed", 20261127)
    assert record["duration_s"] >= 5 and record["seed"] == 20261127


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--no-one-ahead", "--kv-cache-dtype", "f32"),
                                   ("--max-num-seqs", 64, "--max-num-batched-tokens", 96)])
def test_R15_a_minute_of_load_loses_nothing_and_changes_no_answer(flags):
    record = soak("--duration-s", 60, *flags)
    assert record["duration_s"] >= 60 and record["compared"] > 0.7 * record["requests"]


def test_R15_an_interrupted_soak_ends_early_with_its_summary():
    with subprocess.Popen(soak_command("--duration-s", 300), stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as process:
        while "KV blocks" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    record = json.loads(out)
    assert record["interrupted"] and record["passed"] and record["duration_s"] < 60
