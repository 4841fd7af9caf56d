"""slipstream bench serve: against the real server, against one that misbehaves, and bad usage."""

import json
import os
import pty
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from conftest import SHARED


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(slipstream, chat_model):
    """A real server whose model takes 2 ms a step and writes what it pleases."""
    port = free_port()
    process = slipstream.start("serve", chat_model, "--port", port, "--executor", "fake",
                               "--fake-step-us", 2000, "--api-key", "secret",
                               stdout=subprocess.DEVNULL)
    threading.Thread(target=process.stderr.read, daemon=True).start()
    give_up = time.monotonic() + 30
    url = f"http://127.0.0.1:{port}"
    while True:  # it listens before the model is loaded
        try:
            urllib.request.urlopen(url + "/readyz").close()
            break
        except OSError:
            assert time.monotonic() < give_up
            time.sleep(0.05)
    yield url
    process.terminate()
    process.wait(10)


@pytest.fixture
def bench(slipstream, server):
    def run(*flags):
        done = slipstream.run("bench", "serve", "--url", server, "--api-key", "secret", "--json",
                              "--num-prompts", 8, "--input-len", 40, "--output-len", 6, *flags)
        # A client on a busy machine may lag and say so with code 1; its counts hold all the same.
        assert done.code == 0 or all(not r["valid"] for r in done.lines[-1:]), done
        assert done.lines, done
        return done.lines
    return run


class Handler(BaseHTTPRequestHandler):
    """Answers the models' list and, as `plan` says, streams; one chunk a word."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.reply(200, {"data": [{"id": "toy"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)
        self.server.plan(self, len(self.server.bodies), body)

    def reply(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, words=3, gap_s=0.0):
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        for _ in range(words):
            self.event({"choices": [{"text": " w", "finish_reason": None}]})
            time.sleep(gap_s)
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, data):
        self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")
        self.wfile.flush()


@pytest.fixture
def toy():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.bodies = []
    server.plan = lambda handler, number, body: handler.stream()
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_record_has_every_figure(bench):
    record, = bench("--goodput", "ttft:10000", "tpot:1000", "--prefix-share", "0.5")
    assert (record["kind"], record["arrival"], record["requests"], record["errors"]) == (
        "serve", "burst", 8, 0)
    for name in ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms", "output_tokens", "prompt_tokens"):
        assert set(record[name]) == {"mean", "p50", "p90", "p95", "p99", "p999", "max"}, name
    assert record["output_tokens"]["mean"] == 6 and record["prompt_tokens"]["max"] == 40
    assert record["short_answers"] == 0 and record["chunks"] >= 8
    assert record["goodput"]["limits"] == {"ttft_ms": 10000, "tpot_ms": 1000}
    assert record["goodput"]["share"] == 1 and record["goodput"]["requests_s"] > 0
    assert record["prefix_share"] == 0.5 and record["served_model"] == "stories-chat"
    assert record["client_lag_ms"]["samples"] > 0 and record["client_cpu_us_per_chunk"] > 0
    low, high = record["ci95"]["ttft_ms"]["p50"]
    assert low <= record["ttft_ms"]["p50"] <= high


@pytest.mark.parametrize("flags,arrival", [
    (("--max-concurrency", "3"), "closed 3"),
    (("--request-rate", "200"), "poisson 200"),
    (("--request-rate", "200", "--constant-rate"), "constant 200"),
    (("--request-rate", "400", "--burst-size", "4"), "bursts 4 400"),
])
def test_arrivals(bench, flags, arrival):
    record, = bench(*flags)
    assert record["arrival"] == arrival and record["errors"] == 0


def test_prompts_of_words_have_the_length_asked_for(bench):
    record, = bench("--text-prompts", "--input-len", 50, "--prefix-share", "0.9")
    assert record["prompt_tokens"]["mean"] == record["prompt_tokens"]["max"] == 50
    record, = bench("--endpoint", "/v1/chat/completions", "--input-len", 50)
    assert record["prompt_tokens"]["mean"] == record["prompt_tokens"]["max"] == 50


def test_conversations_grow(bench):
    record, = bench("--endpoint", "/v1/chat/completions", "--input-len", 30, "--turns", 2,
                    "--output-len", 3)
    assert record["requests"] == 16 and record["errors"] == 0
    assert record["prompt_tokens"]["max"] > 40


def test_a_trace_is_replayed(bench, tmp_path):
    trace = tmp_path / "my.trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n"
                     "2023-11-16 18:15:46.0000000,20,3\n2023-11-16 18:15:46.5000000,900,4\n")
    record, = bench("--trace", trace, "--trace-speed", 2)
    assert record["arrival"].startswith("trace my ") and record["requests"] == 2
    assert record["prompt_tokens"]["mean"] == 30  # 20, and 40 of 900
    assert record["config"]["trace_rows_clipped"] == 1
    assert record["output_tokens_total"] == 7 and record["send_span_s"] >= 0.24


@pytest.mark.parametrize("name,file", [("gsm8k", "gsm8k_test.jsonl.gz"), ("sonnet", "sonnet.txt"),
                                       ("humaneval", "HumanEval.jsonl.gz"),
                                       ("mt-bench", "mt_bench_question.jsonl")])
def test_prompts_of_files(slipstream, toy, name, file):
    path = SHARED / "data" / file
    if not path.exists():
        pytest.skip(f"{path} is not there")

    def plan(handler, number, body):
        if handler.path == "/tokenize":
            handler.reply(200, {"tokens": [0] * len(body["prompt"].split())})
        else:
            handler.stream()
    toy.plan = plan
    done = slipstream.run("bench", "serve", "--url", toy.url, "--num-prompts", 4, "--json",
                          "--dataset-name", name, "--dataset-path", path, "--num-warmups", 0)
    record = done.lines[0]
    assert record["errors"] == 0 and record["config"]["dataset"] == file, done
    bodies = [b for b in toy.bodies if "max_tokens" in b]
    assert len({b["prompt"] for b in bodies}) == record["requests"] == (8 if name == "mt-bench" else 4)
    assert all(("ignore_eos" in b) == (name == "sonnet") for b in bodies)
    if name == "mt-bench":
        assert any(" w w w" in b["prompt"] for b in bodies)


def test_repeats_have_a_summary_and_are_saved(bench, slipstream, tmp_path):
    saved = tmp_path / "r.jsonl"
    lines = bench("--repeats", 3, "--save", saved)
    assert [r.get("repeat") for r in lines] == [0, 1, 2, None] and lines[3]["summary"] is True
    low, high = lines[3]["ci95"]["requests_s"]
    rates = sorted(r["requests_s"] for r in lines[:3])
    rounding = 1e-9  # of a mean: three times the largest may lie above the largest
    assert rates[0] * (1 - rounding) <= low <= high <= rates[2] * (1 + rounding)
    assert lines[3]["requests_s"] == rates[1]
    assert [json.loads(line) for line in saved.read_text().splitlines()] == lines
    flags = ("--set", "model=m", "--set", "weights=f32", "--set", "gpu=", "--set", "engine=x",
             "--set", "engine_version=1", "--store", tmp_path / "a.db")
    done = slipstream.run("almanac", "import", saved, *flags)
    assert done.out.startswith("3 stored, 0 already there, 1 skipped"), done


def test_the_highest_rate_within_limits_is_found(bench):
    record, summary = bench("--goodput", "ttft:5000", "--find-rate", "--num-prompts", 30)
    assert record["arrival"].startswith("poisson ")
    found = summary["highest_rate"]
    assert found["requests_s"] == max(p["requests_s"] for p in found["probes"] if p["meets"])
    assert found["limits"] == {"ttft_ms": 5000} and found["share"] == 0.99


def test_a_limit_nothing_meets(slipstream, server):
    slipstream_args = ("bench", "serve", "--url", server, "--api-key", "secret", "--num-prompts", 4,
                       "--input-len", 20, "--output-len", 4, "--goodput", "ttft:0.001",
                       "--find-rate")
    done = slipstream.run(*slipstream_args)
    assert done.code == 1 and done.out == ""
    assert "no rate meets the limits" in done.err.splitlines()[-1]


def test_errors_are_counted_by_kind(slipstream, toy):
    def plan(handler, number, body):
        if number % 4 == 1:
            return handler.reply(503, {"error": {"message": "full"}})
        if number % 4 == 2:
            handler.send_response(200)
            handler.end_headers()
            handler.close_connection = True
            return handler.event({"choices": [{"text": "a"}]})
        return handler.stream(words=2)
    toy.plan = plan
    done = slipstream.run("bench", "serve", "--url", toy.url, "--num-prompts", 20, "--json",
                          "--max-concurrency", 1, "--num-warmups", 0)
    record = done.lines[0]
    assert done.code == 1
    assert record["errors_by_kind"] == {"closed_early": 5, "http_503": 5}
    assert record["first_error"] == 'http_503: {"error": {"message": "full"}}'
    assert record["answers_without_usage"] == 10 and record["output_tokens_total"] == 20


def test_stalls_and_late_tokens_are_seen(slipstream, toy):
    toy.plan = lambda handler, number, body: handler.stream(words=3, gap_s=0.12)
    done = slipstream.run("bench", "serve", "--url", toy.url, "--num-prompts", 2, "--json",
                          "--stall-ms", 100)
    assert done.lines[0]["stalls"] == {"over_ms": 100, "count": 4}


def test_a_server_that_dies_ends_the_run_in_one_line(slipstream, toy, tmp_path):
    def plan(handler, number, body):
        if number == 10:
            toy.shutdown()
            toy.socket.close()
        handler.stream()
    toy.plan = plan
    saved = tmp_path / "r.jsonl"
    done = slipstream.run("bench", "serve", "--url", toy.url, "--num-prompts", 5000,
                          "--max-concurrency", 1, "--num-warmups", 0, "--save", saved)
    assert done.code == 1 and "went away after" in done.err.splitlines()[-1], done
    record = json.loads(saved.read_text())
    assert record["valid"] is False and "the server went away" in record["invalid_reasons"]
    assert record["errors_by_kind"]["not_sent"] > 4000


def test_ctrl_c_keeps_finished_repeats(slipstream, server, tmp_path):
    saved = tmp_path / "r.jsonl"
    process = slipstream.start("bench", "serve", "--url", server, "--api-key", "secret",
                               "--num-prompts", 20, "--input-len", 10, "--output-len", 100,
                               "--repeats", 1000, "--save", saved, stdout=subprocess.DEVNULL)
    give_up = time.monotonic() + 30
    while not (saved.exists() and saved.read_text().count("\n") >= 2):
        assert time.monotonic() < give_up
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    err = process.stderr.read().decode()
    assert process.wait(20) == 1
    num_saved = saved.read_text().count("\n")
    last = err.splitlines()[-1]
    kept = sum("summary" not in json.loads(line) for line in saved.read_text().splitlines())
    assert "interrupted" in last and f"{kept} of 1000 repeats are recorded" in last, err
    assert num_saved >= 2


def test_cold_start_is_the_time_until_ready(slipstream, stories):
    port = free_port()
    flags = ("--url", f"http://127.0.0.1:{port}", "--num-prompts", "2", "--input-len", "8",
             "--output-len", "4", "--json", "--wait-ready")
    client = subprocess.Popen([slipstream.binary, "bench", "serve", *flags, "30"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    process = slipstream.start("serve", stories, "--port", port, stdout=subprocess.DEVNULL)
    threading.Thread(target=process.stderr.read, daemon=True).start()
    try:
        record = json.loads(client.communicate(timeout=40)[0])
        assert 0.5 < record["cold_start_s"] < 30
    finally:
        process.terminate()
        process.wait(10)
    done = slipstream.run("bench", "serve", *flags, "0.3")
    assert done.code == 1 and "was not ready within 0.3 s" in done.err


def test_a_terminal_shows_a_bar(slipstream, server):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [slipstream.binary, "bench", "serve", "--url", server, "--api-key", "secret",
         "--num-prompts", "20", "--input-len", "10", "--output-len", "110"],
        stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # the other side is closed
        pass
    process.wait(20)
    assert b"measuring [" in shown and b" req/s " in shown and b"chunks/s" in shown


def test_a_full_disk_costs_no_measurement(slipstream, server):
    done = slipstream.run("bench", "serve", "--url", server, "--api-key", "secret", "--num-prompts",
                          2, "--input-len", 8, "--output-len", 4, "--save", "/dev/full")
    assert done.code == 1 and "No space left on device" in done.err.splitlines()[-1]
    assert json.loads(done.out.splitlines()[-1])["kind"] == "serve"


@pytest.mark.parametrize("code,flags,says", [
    (2, ("--url", "localhost:8000"), "give http://HOST:PORT"),
    (2, ("--url", "https://example.org"), "only http"),
    (1, ("--url", "http://127.0.0.1:1"), "Connection refused"),
    (1, ("--url", "http://no-such-host.invalid"), "no such host"),
    (2, ("--constant-rate",), "needs --request-rate"),
    (2, ("--burst-size", "4"), "needs --request-rate"),
    (2, ("--request-rate", "3", "--constant-rate", "--burst-size", "4"), "contradict"),
    (2, ("--trace", "x.csv", "--request-rate", "3"), "--trace brings its own times"),
    (2, ("--trace-speed", "2"), "needs --trace"),
    (2, ("--find-rate",), "needs --goodput"),
    (2, ("--find-rate", "--goodput", "ttft:300", "--request-rate", "3"), "drop --request-rate"),
    (2, ("--goodput", "speed:3"), "--goodput 'speed:3'"),
    (2, ("--ignore-eos", "--no-ignore-eos"), "contradict"),
    (2, ("--dataset-name", "gsm8k"), "needs --dataset-path"),
    (2, ("--dataset-name", "poems"), "available: random, sonnet"),
    (2, ("--turns", "2"), "--text-prompts"),
    (2, ("--prefix-share", "1.5"), "--prefix-share '1.5'"),
    (2, ("--extra-body", "[1]"), "a JSON object is expected"),
    (1, ("--save", "/no/such/folder/x"), "--save /no/such/folder/x"),
])
def test_bad_usage(slipstream, code, flags, says):
    slipstream.refuses(code, "bench", "serve", *flags, says=says)


def test_what_the_server_refuses(slipstream, server):
    slipstream.refuses(1, "bench", "serve", "--url", server, says="give --api-key")
    key = ("--api-key", "secret")
    slipstream.refuses(1, "bench", "serve", "--url", server, *key, "--model", "none",
                       says=("'none'", "serves 'stories-chat'"))
    done = slipstream.run("bench", "serve", "--url", server, *key, "--endpoint", "/v1/nothing")
    assert done.code == 1 and "answers no request (http_404)" in done.err.splitlines()[-1]
