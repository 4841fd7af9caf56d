"""Rows R: signals, kills, restarts, full disks and low limits, on a whole process each."""

import contextlib
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import threading
import time

import pytest

from live_server import find_binary
from row_tools import (WAIT_S, Client, Reader, Row, RowServer, Stream, connect, end_of_server,
                       events_of, open_streams, raise_file_limit, request_bytes, started_by,
                       wait_until)

COMPLETIONS = "/v1/completions"
FAKE = ("--executor", "fake", "--fake-step-us")
LONG = {"prompt": "Once", "max_tokens": 400, "ignore_eos": True, "stream": True}


def status_of(server, path, body=None):
    with Client(server) as client:
        return client.ask("POST" if body else "GET", path, body).status


def wait_until_draining(server):
    wait_until(lambda: status_of(server, "/readyz") == 503, "not ready any more")


def test_R1_sigterm_under_500_streams_loses_none(start):
    assert raise_file_limit(1000)
    server = start(*FAKE, "100000", "--max-num-seqs", "512", "--max-num-batched-tokens", "2048")
    readers = open_streams(server, 500, {**LONG, "max_tokens": 20})
    with Client(server) as kept:
        assert kept.ask("GET", "/livez").status == 200
        server.interrupt()
        wait_until_draining(server)
        answer = kept.post(COMPLETIONS, {"prompt": "Once"})
        assert answer.status == 503 and answer.error["type"] == "service_unavailable"
        assert int(answer.headers["retry-after"]) >= 1
        assert kept.ask("GET", "/livez").status == 200
    streams = [Stream(events_of(reader)) for reader in readers]
    assert all(each.finish == "length" for each in streams)
    assert server.process.wait(WAIT_S) == 0
    with contextlib.closing(sqlite3.connect(server.usage_db)) as database:
        found = database.execute("SELECT finish, output_tokens, count(*) FROM requests"
                                 " GROUP BY 1, 2").fetchall()
    assert found == [("length", 20, 500)]


def test_R2_what_is_left_at_the_drain_timeout_ends_with_an_error(start):
    server = start(*FAKE, "50000", "--drain-timeout", "1", "--max-num-seqs", "20")
    readers = open_streams(server, 20, LONG)
    with Client(server) as client:
        waiting = client.send("POST", COMPLETIONS, {**LONG, "stream": False})
        server.wait_for(lambda m: m["vllm:num_requests_running"]
                        + m["vllm:num_requests_waiting"] == 21, "all are there")
        server.interrupt()
        streams = [Stream(events_of(reader)) for reader in readers]
        assert all(each.error["type"] == "service_unavailable" for each in streams)
        answer = waiting.answer()
        assert answer.status == 503 and answer.error["type"] == "service_unavailable"
    assert server.process.wait(WAIT_S) == 1


@pytest.mark.parametrize("first, second", [
    (signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT),
    (signal.SIGTERM, signal.SIGINT)], ids=["term", "int", "both"])
def test_R3_a_second_signal_ends_at_once_and_all_learn_it(start, first, second):
    server = start(*FAKE, "50000", "--drain-timeout", "1000")
    readers = open_streams(server, 10, LONG)
    server.process.send_signal(first)
    wait_until_draining(server)
    server.process.send_signal(second)
    streams = [Stream(events_of(reader)) for reader in readers]
    assert all(each.error["type"] == "service_unavailable" for each in streams)
    assert server.process.wait(WAIT_S) == 1


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def test_R4_after_a_kill_the_same_command_serves_again(model, tmp_path):
    def files_of_the_system():
        return {folder: sorted(os.listdir(folder)) for folder in ("/dev/shm", "/dev/mqueue")
                if os.path.isdir(folder)}

    before = files_of_the_system()
    flags = ("--port", free_port(), *FAKE, "10000")
    answered = []
    for _ in range(3):
        with RowServer(model, tmp_path / "server", *flags) as server:
            with Client(server) as client:
                body = {"prompt": "Once", "max_tokens": 3}
                answer = client.post(COMPLETIONS, body, {"x-request-id": f"r{len(answered)}"})
                assert answer.status == 200
                answered.append(answer.headers["x-request-id"])
            open_streams(server, 5, LONG)
            server.kill()
    assert files_of_the_system() == before
    with contextlib.closing(sqlite3.connect(server.usage_db)) as database:
        found = [row[0] for row in database.execute("SELECT request_id FROM requests")]
    assert [each for each in found if each.startswith("r") and each in answered] == answered


def test_R5_signals_that_are_not_for_us_and_a_pause(slow):
    with Client(slow) as client, Client(slow) as other:
        events = client.events(COMPLETIONS, {**LONG, "max_tokens": 60})
        next(events)
        for number in (signal.SIGPIPE, signal.SIGHUP, signal.SIGCHLD, signal.SIGWINCH,
                       signal.SIGURG, signal.SIGCONT):
            slow.process.send_signal(number)
        late = other.send("POST", COMPLETIONS, {**LONG, "stream": False},
                          {"x-request-timeout-ms": "400"})
        slow.process.send_signal(signal.SIGSTOP)
        time.sleep(0.6)  # the pause is the row
        slow.process.send_signal(signal.SIGCONT)
        answer = late.answer()
        assert answer.status == 504 and answer.error["code"] == "deadline_exceeded"
        assert Stream(events).finish == "length"


@pytest.mark.slow
def test_R5_a_pause_of_a_minute(slow):
    with Client(slow) as client:
        events = client.events(COMPLETIONS, {**LONG, "max_tokens": 60})
        next(events)
        slow.process.send_signal(signal.SIGSTOP)
        time.sleep(60)
        slow.process.send_signal(signal.SIGCONT)
        assert Stream(events).finish == "length"


def test_R6_a_step_that_does_not_end_ends_readiness_and_liveness_and_then_the_server(start):
    server = start(*FAKE, "60000000")
    with Client(server) as client, Client(server) as probe:
        begin = time.monotonic()
        waiting = client.send("POST", COMPLETIONS, {"prompt": "Once", "max_tokens": 5})
        for path in ("/readyz", "/livez"):
            wait_until(lambda path=path: probe.ask("GET", path).status == 503, f"{path} ends")
        assert 4 < time.monotonic() - begin < 8
        answer = waiting.answer("POST")
        assert answer.status == 503 and json.loads(answer.body)["error"]["message"]
    assert server.process.wait(WAIT_S) == 1
    assert 7 < time.monotonic() - begin < 30


def serves(start, *flags):
    server = start("-t", "1", *flags)
    row = Row(server, victim_tokens=60)
    with row.unharmed(), Client(server) as client:
        for _ in range(30):
            assert client.post(COMPLETIONS, {"prompt": "x" * 20, "max_tokens": 1}).status == 200
            client.ask("GET", "/nowhere")
    return server


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "</dev/null 2>&-"])
def test_R10_a_log_that_takes_nothing_stops_nothing(start, tmp_path, monkeypatch, redirection):
    with started_by(f'exec "$BINARY" "$@" {redirection}', tmp_path / "bin", monkeypatch):
        server = serves(start)
    assert server.stop() == 0


def test_R10_a_log_that_nobody_reads_stops_nothing(start, tmp_path, monkeypatch):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with started_by(f'exec "$BINARY" "$@" 2>{pipe}', tmp_path / "bin", monkeypatch):
            server = start("-t", "1", "--log-level", "debug")
        row = Row(server, victim_tokens=8)
        with row.unharmed(), Client(server) as client:
            for _ in range(700):  # more than the pipe's 64 KiB
                client.ask("GET", "/" + "x" * 200)
        assert server.stop() == 0
    finally:
        os.close(reader)


def test_R10_a_ledger_on_a_full_disk_stops_nothing(start, tmp_path, monkeypatch):
    # A limit on the size of files is what a process sees of a full disk.
    with started_by('ulimit -f 100; trap "" XFSZ; exec "$BINARY" "$@"', tmp_path / "bin",
                    monkeypatch):
        server = start(*FAKE, "100")
    with Client(server) as client:
        for _ in range(1500):
            answer = client.post(COMPLETIONS, {"prompt": [7], "max_tokens": 1})
            assert answer.status == 200
    assert server.metrics()["slipstream:ledger_failures_total"] > 0
    server.wait_until_idle()


def test_R11_with_few_files_it_says_so_and_serves(start, tmp_path, monkeypatch):
    with started_by('ulimit -n 256; exec "$BINARY" "$@"', tmp_path / "bin", monkeypatch):
        server = start("-t", "1")
    assert "file" in server.log() and "connections" in server.log(), server.log()
    row = Row(server, victim_tokens=60)
    with row.unharmed(reconnects=True):  # who idles, however briefly, makes room for newcomers
        idle = [connect(server) for _ in range(400)]
        for sock in idle[-20:]:
            sock.sendall(request_bytes(server, "GET", "/livez"))
            assert Reader(sock).answer("GET").status == 200
        for sock in idle:
            sock.close()


BAD_FLAGS = [
    (("--no-such-flag",), "--no-such-flag"), (("--port", "65536"), "--port"),
    (("--port", "-1"), "--port"), (("--port", "http"), "--port"),
    (("--host", "no.such.host.invalid"), "no.such.host.invalid"), (("--host", ""), "host"),
    (("--max-connections", "0"), "--max-connections"),
    (("--max-queued-requests", "0"), "--max-queued-requests"),
    (("--request-timeout", "0"), "--request-timeout"), (("--api-key", "a key"), "--api-key"),
    (("--api-key", "has space 123"), "--api-key"), (("--api-key", "x" * 513), "--api-key"),
    (("--api-key", "sk-twice-0001", "--api-key", "sk-twice-0001"), "twice"),
    (("--api-key-file", "/no/such/file"), "/no/such/file"), (("--api-key-file", "/dev/null"), "key"),
    (("--usage-db", "/proc/no/usage.db"), "/proc/no"),
    (("--usage-db", "/tmp/x.db", "--no-usage"), "--no-usage"),
    (("--rate-limit-requests", "0"), "--rate-limit-requests"),
    (("--price-per-million-tokens", "nan"), "--price-per-million-tokens"),
    (("--price-per-million-tokens", "-1"), "--price-per-million-tokens"),
    (("--trace", "/no/such/folder/trace"), "/no/such/folder"),
    (("--fake-step-us", "5"), "fake"), (("--max-num-seqs", "0"), "--max-num-seqs"),
    (("--max-model-len", "100000"), "512"), (("--config", "/no/such/config"), "/no/such/config"),
    (("--log-format", "xml"), "--log-format"), (("--device", "tpu"), "--device"),
    (("--kv-cache-memory-bytes", "1"), "bytes"), (("one", "two"), "two"),
    (("--api-key-file", "/dev/zero"), "/dev/zero")]


@pytest.mark.parametrize("flags, says", BAD_FLAGS, ids=lambda each: " ".join(each)[:40]
                         if isinstance(each, tuple) else "")
def test_R13_a_flag_that_cannot_be_meant_refuses_the_start(model, flags, says):
    done = subprocess.run([find_binary(), "serve", "-m", str(model), "--port", "0", "--no-usage"
                           if "--usage-db" not in flags else "--no-access-log", *flags],
                          capture_output=True, timeout=WAIT_S, check=False)
    text = done.stderr.decode()
    assert done.returncode in (1, 2, 4), (done.returncode, text)
    assert says in text and done.stdout == b""
    lines = [each for each in text.splitlines() if " info " not in each]
    assert len(lines) <= 2 and "sk-twice-0001" not in text, text


def test_R13_a_port_in_use_is_named(model, start):
    port = int(start().url.rsplit(":", 1)[1])
    done = subprocess.run([find_binary(), "serve", "-m", str(model), "--port", str(port),
                           "--no-usage"], capture_output=True, timeout=WAIT_S, check=False)
    assert done.returncode != 0 and str(port) in done.stderr.decode()


def loading_server(tmp_path):
    """A server whose weights take a while: (process, port). They are drawn, not read."""
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 1024,
        "intermediate_size": 4096, "num_hidden_layers": 4, "num_attention_heads": 16,
        "num_key_value_heads": 4, "vocab_size": 16000, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
        "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32"}))
    port = free_port()
    process = subprocess.Popen(
        [find_binary(), "serve", "-m", str(folder), "--load-format", "dummy",
         "--skip-tokenizer-init", "--port", str(port), "--no-usage"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return process, port


def ask(port, method, path, body=None):
    """(status, headers, error) or None while nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        connection.request(method, path, json.dumps(body) if body else None,
                           {"content-type": "application/json"} if body else {})
        response = connection.getresponse()
        return response.status, response.headers, json.loads(response.read() or b"{}")
    except ConnectionError:
        return None
    finally:
        connection.close()


def test_without_a_tokenizer_every_token_comes_as_an_id_when_it_is_made(start):
    server = start("-t", "1", "--skip-tokenizer-init")
    body = {"prompt": [1, 5, 9], "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    with Client(server) as client:
        whole = client.post(COMPLETIONS, body)
        chunks = [event for event in client.events(COMPLETIONS, body) if event != "[DONE]"]
    ids = [event["choices"][0]["token_ids"] for event in chunks]
    assert all(len(each) == 1 for each in ids) and len(ids) == 12
    assert [each[0] for each in ids] == json.loads(whole.body)["choices"][0]["token_ids"]


@pytest.mark.parametrize("ends", [False, True], ids=["served", "ended"])
def test_R14_while_the_model_loads_requests_are_told_to_come_again(tmp_path, ends):
    process, port = loading_server(tmp_path)
    try:
        wait_until(lambda: ask(port, "GET", "/livez"), "it listens")
        for method, path, body in (
                ("GET", "/readyz", None), ("GET", "/health", None),
                ("POST", COMPLETIONS, {"prompt": [1], "max_tokens": 1}),
                ("POST", "/v1/chat/completions", {"messages": []})):
            status, headers, answer = ask(port, method, path, body)
            assert status == 503 and answer["error"]["code"] == "loading", (path, answer)
            assert int(headers["retry-after"]) >= 1
        assert ask(port, "GET", "/livez")[0] == 200
        assert ask(port, "GET", "/version")[0] == 200
        if ends:
            process.terminate()
            assert process.wait(WAIT_S) == 0
            return
        assert process.stdout.readline().startswith(b"slipstream: serving large on ")
        assert ask(port, "GET", "/readyz")[0] == 200
        assert ask(port, "POST", COMPLETIONS, {"prompt": [1], "max_tokens": 1})[0] == 200
        process.terminate()
        assert process.wait(WAIT_S) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_R16_probes_and_metrics_scraped_without_pause_change_no_token(real_row):
    stopping = threading.Event()
    counts = []

    def scrape(path):
        with Client(real_row.server) as client:
            count = 0
            while not stopping.is_set():
                answer = client.ask("GET", path)
                assert answer.status == 200
                count += 1
        counts.append(count)

    with real_row.unharmed() as server:
        paths = ("/metrics", "/health", "/v1/models", "/load")
        threads = [threading.Thread(target=scrape, args=(each,)) for each in paths]
        for thread in threads:
            thread.start()
        with Client(server) as client:
            for _ in range(40):
                body = {"prompt": "Once", "max_tokens": 40, "ignore_eos": True}
                assert client.post(COMPLETIONS, body).status == 200
        stopping.set()
        for thread in threads:
            thread.join()
    assert len(counts) == len(paths) and sum(counts) >= 100


def test_the_end_of_a_server_leaves_one_row_and_one_line_for_each_request(start):
    server = start(*FAKE, "1000")
    with Row(server, victim_tokens=20).unharmed():
        pass
    end_of_server(server)
