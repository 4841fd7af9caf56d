"""What was used is accounted per key: in answers, over HTTP, on the command line, after kills."""

import subprocess
import threading

import requests

from conftest import openai_client, post, run_json
from live_server import LiveServer, find_binary

KEYS = "alice:sk-alice-0123456789\nbob:sk-bob-0123456789\n"
ALICE = {"authorization": "Bearer sk-alice-0123456789"}
BOB = {"x-api-key": "sk-bob-0123456789"}
BODY = {"prompt": "Once upon a time", "max_tokens": 5, "temperature": 0}


def start_with_keys(start, tmp_path, *flags):
    key_file = tmp_path / "keys"
    key_file.write_text(KEYS)
    return start("--api-key-file", key_file, *flags)


def test_sums_are_those_of_the_answers_wherever_they_are_read(start, tmp_path):
    server = start_with_keys(start, tmp_path, "--price-per-million-tokens", "0.25")
    used = {"alice": [0, 0, 0], "bob": [0, 0, 0]}
    for idx in range(6):
        name, headers = ("alice", ALICE) if idx % 3 else ("bob", BOB)
        usage = post(server, "/v1/completions", {**BODY, "n": 1 + idx % 2}, headers=headers).json()
        used[name][0] += 1
        used[name][1] += usage["usage"]["prompt_tokens"]
        used[name][2] += usage["usage"]["completion_tokens"]
    post(server, "/v1/completions", {**BODY, "max_tokens": -1}, headers=ALICE)  # refused: free
    report = run_json("usage", "--usage-db", server.usage_db, "--price-per-million-tokens", "0.25")
    rows = {row["key"]: row for row in report["rows"]}
    for name, headers in (("alice", ALICE), ("bob", BOB)):
        requests_, input_, output = used[name]
        assert rows[name]["requests"] == requests_ and rows[name]["model"] == server.model
        assert (rows[name]["input_tokens"], rows[name]["output_tokens"]) == (input_, output)
        assert abs(rows[name]["price"] - (input_ + output) * 0.25e-6) < 1e-12
        answer = requests.get(server.url + "/usage", headers=headers, timeout=10).json()
        assert [row["key"] for row in answer["data"]] == [name]  # a key sees its own use only
        assert answer["total"]["input_tokens"] == input_
        assert answer["total"]["output_tokens"] == output
        assert abs(answer["total"]["price"] - rows[name]["price"]) < 1e-12


def test_the_table_is_for_people(start, tmp_path):
    server = start_with_keys(start, tmp_path)
    post(server, "/v1/completions", BODY, headers=ALICE)

    def usage(*flags):
        return subprocess.run([find_binary(), "usage", "--usage-db", server.usage_db, *flags],
                              capture_output=True, text=True, timeout=30, check=False)

    lines = usage("--price-per-million-tokens", "1").stdout.splitlines()
    assert lines[0].split() == ["key", "model", "requests", "input", "cached", "output", "total",
                                "price"]
    assert lines[1].split()[:3] == ["alice", server.model, "1"]
    assert lines[-1].split()[:2] == ["all", "1"]
    assert len({len(line) for line in lines}) == 1
    assert usage("--from", "2100-01-01").stdout.splitlines()[1].split()[:2] == ["all", "0"]
    assert usage("--to", "2000-01-01").stdout.splitlines()[1].split()[:2] == ["all", "0"]
    assert usage("--key", "bob").stdout.splitlines()[1].split()[:2] == ["all", "0"]
    for flags, says in ((("--from", "yesterday"), "'yesterday' is not a time"),
                        (("--from", "2026-01-02", "--to", "2026-01-01"), "before --to")):
        refused = usage(*flags)
        assert refused.returncode == 2 and says in refused.stderr
        assert refused.stderr.count("\n") == 1 and refused.stdout == ""


def test_a_killed_server_loses_no_answered_request(stories_model, tmp_path):
    answered = []

    def ask(server):
        with requests.Session() as session:
            while True:
                try:
                    response = session.post(server.api + "/completions", json=BODY, timeout=10)
                    answered.append(response.json()["usage"]["completion_tokens"])
                except (requests.RequestException, ValueError):
                    return

    for _ in range(2):  # the second server goes on with the first one's file
        with LiveServer(stories_model, tmp_path / "server", "-t", "1") as server:
            threads = [threading.Thread(target=ask, args=(server,)) for _ in range(4)]
            wanted = len(answered) + 50
            for thread in threads:
                thread.start()
            server.wait_for(lambda _: len(answered) >= wanted, "50 answers", timeout_s=60)
            server.kill()
            for thread in threads:
                thread.join()
    total = run_json("usage", "--usage-db", tmp_path / "server" / "usage.db")["total"]
    assert len(answered) <= total["requests"] <= len(answered) + 2 * 4
    assert total["output_tokens"] >= sum(answered)


def test_a_cancelled_stream_is_accounted_too(slow):
    def total():
        return run_json("usage", "--usage-db", slow.usage_db)["total"]

    before = total()
    with openai_client(slow) as client:
        stream = client.completions.create(model=slow.model, prompt="a", max_tokens=200,
                                           stream=True, extra_body={"ignore_eos": True})
        for _ in range(5):
            next(stream)
        stream.close()
    slow.wait_until_idle()
    after = total()
    assert after["requests"] == before["requests"] + 1
    assert 4 <= after["output_tokens"] - before["output_tokens"] < 100


def test_a_server_may_do_without(start):
    server = start("--no-usage")
    assert post(server, "/v1/completions", BODY).status_code == 200
    assert not server.usage_db.exists()
    assert requests.get(server.url + "/usage", timeout=10).status_code == 404


def test_a_ledger_that_cannot_be_opened_stops_the_start(stories_model, tmp_path):
    not_a_ledger = tmp_path / "text"
    not_a_ledger.write_text("x" * 5000)
    done = subprocess.run([find_binary(), "serve", stories_model, "--port", "0", "--usage-db",
                           not_a_ledger], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "--usage-db" in done.stderr.splitlines()[-1]  # warnings may come before
