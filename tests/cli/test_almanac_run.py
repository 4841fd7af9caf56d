"""slipstream almanac run: the method, what is kept, and engines that misbehave."""

import ctypes
import json
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FAKE = Path(__file__).with_name("fake_engine.py")


class Almanac:
    """A folder with scripted engines, a campaign on them and its store."""

    def __init__(self, slipstream, folder):
        self.slipstream, self.folder = slipstream, folder
        self.store = folder / "almanac.db"
        self.runs = folder / "almanac.runs" / "fakes"
        self.seen, self.pids = folder / "seen.jsonl", folder / "pids"
        (folder / "engines").mkdir()
        (folder / "model.gguf").write_bytes(b"GGUF")

    def engine(self, name, *flags, ready_timeout_s=20):
        words = [sys.executable, str(FAKE), "{model}", "--host", "{host}", "--port", "{port}",
                 "--seen", str(self.seen), "--pids", str(self.pids), *map(str, flags)]
        (self.folder / "engines" / f"{name}.toml").write_text(
            f'kind = "engine"\nname = "{name}"\nlicence = "MIT"\ndevices = ["cpu"]\n'
            f'model_formats = ["gguf"]\nversion_command = {json.dumps([*words[:2], "--version"])}\n'
            f'command = {json.dumps(words)}\nhealth_route = "/health"\n'
            f'completions_route = "/v1/completions"\nready_timeout_s = {ready_timeout_s}\n'
            'stop_timeout_s = 1\nimage_bytes = 4096\n[settings]\n[weights]\nQ8_0 = { flags = [], means = "as it is" }\n')
        return name

    def campaign(self, *engines, extra="", sweep="rates = 2, seconds = 1, min_requests = 4,"
                                              " max_requests = 16"):
        path = self.folder / "fakes.toml"
        path.write_text(
            'kind = "campaign"\nname = "fakes"\ndescription = "scripted engines"\ndevice = "cpu"\n'
            f'configurations = {json.dumps(engines)}\nrepeats = 1\nwarmup_requests = 2\n'
            f'point_timeout_s = 30\nsweep = {{ {sweep} }}\n{extra}'
            f'[[models]]\nname = "tiny"\ngguf = "{self.folder}/model.gguf"\nweights = "Q8_0"\n'
            'accuracy_task = "a task"\naccuracy = 0.5\n'
            '[[shapes]]\ntokens_in = 8\ntokens_out = 4\n')
        return path

    def arguments(self, *flags):
        return ("almanac", "run", self.folder / "fakes.toml", "--almanac", self.folder, "--store",
                self.store, *flags)

    def run(self, *flags, **kwargs):
        return self.slipstream.run(*self.arguments(*flags), **kwargs)

    def points(self):
        done = self.slipstream.run("almanac", "export", "--jsonl", "--store", self.store)
        return done.lines if done.code == 0 else []

    def failures(self):
        path = self.runs / "failures.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def num_seen(self):
        return len(self.seen.read_text().splitlines()) if self.seen.exists() else 0

    def is_gone(self, timeout_s=10):
        """Whether every engine and every worker has ended, given a moment."""
        pids = self.pids.read_text().split() if self.pids.exists() else []
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if not any(is_running(pid) for pid in pids):
                return True
            time.sleep(0.05)
        return False


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def read_rows(almanac, point):
    path = almanac.folder / point["config"]["rows"]
    return [json.loads(line) for line in path.read_text().splitlines()]


def wait_until(condition, timeout_s=30):
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.02)


@pytest.fixture
def almanac(slipstream, tmp_path):
    made = Almanac(slipstream, tmp_path)
    yield made
    assert made.is_gone(), "an engine outlived its campaign"


def test_the_method_measures_the_extremes_and_rates_between_them(almanac):
    almanac.campaign(almanac.engine("fake", "--start-s", 0.3))
    done = almanac.run()
    assert (done.code, done.out) == (0, ""), done.err
    points = almanac.points()
    assert sorted((p["arrival"], p["concurrency"]) for p in points) == [
        ("burst", 0), ("closed", 1), ("constant", 0), ("constant", 0)]
    extremes = {p["arrival"]: p["requests_s"] for p in points if p["arrival"] != "constant"}
    rates = [p["request_rate"] for p in points if p["arrival"] == "constant"]
    assert min(extremes.values()) < min(rates) < max(rates) < max(extremes.values())
    for point in points:
        assert 4 <= point["requests"] <= 16 and point["errors"] == 0
        assert point["output_tok_s"] == pytest.approx(4 * point["requests_s"])
        assert (point["engine"], point["engine_version"], point["git_commit"]) == (
            "fake", "1.2.3", "abcdef0")
        assert (point["model"], point["weights"], point["gpu"]) == ("tiny", "Q8_0", "")
        assert point["cpu"] and point["cold_start_s"] >= 0.3
        assert (point["accuracy_task"], point["accuracy"], point["image_bytes"]) == ("a task", 0.5,
                                                                                     4096)
        assert "power_w_mean" not in point, "nothing measures a CPU's power"
        assert str(FAKE) in point["server_command"] and "--port" in point["server_command"]
        assert point["client_command"].startswith("slipstream bench serve --url http://127.0.0.1:")
        rows = read_rows(almanac, point)
        assert len(rows) == point["requests"]
        for row in rows:
            assert row["ok"] and (row["prompt_tokens"], row["completion_tokens"]) == (8, 4)
            assert len(row["itl_ms"]) == 3 and row["e2e_ms"] >= row["ttft_ms"] + sum(row["itl_ms"])
    assert next(p for p in points if p["arrival"] == "burst")["requests"] == 16
    # Warm-ups of 2 at once and 2 one by one are sent and not stored.
    assert almanac.num_seen() == sum(p["requests"] for p in points) + 4
    prompts = almanac.seen.read_text().splitlines()
    assert len(set(prompts)) == len(prompts), "a prompt is in the engine's cache already"

    again = almanac.run()
    assert again.code == 0 and "0 points measured, 4 there already, 0 failures" in again.err
    assert "starting" not in again.err
    assert almanac.num_seen() == len(prompts)


def test_an_engine_that_fails_costs_its_own_points_only(almanac):
    almanac.engine("not-there")
    path = almanac.folder / "engines" / "not-there.toml"
    path.write_text(path.read_text().replace(sys.executable, "no-such-program"))
    almanac.engine("broken", "--behaviour", "crash-at-start")
    almanac.engine("asleep", "--behaviour", "never-ready", ready_timeout_s=1)
    almanac.engine("refusing", "--behaviour", "refuse")
    almanac.engine("fake")
    almanac.campaign("not-there", "broken", "asleep", "refusing", "fake")
    done = almanac.run()
    assert done.code == 1
    assert {p["engine"] for p in almanac.points()} == {"fake"} and len(almanac.points()) == 4
    failures = {f["engine"]: f for f in almanac.failures()}
    assert "'no-such-program' cannot be run" in failures["not-there"]["detail"]
    assert failures["broken"]["detail"] == "ended before it was ready: exit code 3"
    assert "no such device" in failures["broken"]["log_tail"]
    assert "not ready after 1 s; /health says: HTTP 503" in failures["asleep"]["detail"]
    assert "every request failed" in failures["refusing"]["detail"]
    assert (almanac.folder / failures["broken"]["log"]).is_file()
    assert "no such device" not in done.err and "FAILED its start" in done.err
    imported = almanac.slipstream.run("almanac", "import", almanac.runs / "failures.jsonl", "--store",
                                      almanac.store)
    assert imported.code == 0 and "0 stored" in imported.out, "a failure is no point"


def test_a_crash_in_a_point_is_recorded_and_the_next_point_gets_a_new_engine(almanac):
    # 4 requests of the warm-up, 4 or more one at a time; the 16 at once go over the limit.
    almanac.campaign(almanac.engine("fragile", "--behaviour", "crash", "--after", 20, "--token-s",
                                    0.05),
                     almanac.engine("fake"))
    done = almanac.run()
    assert done.code == 1
    assert [(f["failure"], f["what"], f["detail"]) for f in almanac.failures()] == [
        ("crashed", "8x4 burst", "the engine ended: exit code 7")]
    assert "the scripted end" in almanac.failures()[0]["log_tail"]
    fragile = [p for p in almanac.points() if p["engine"] == "fragile"]
    assert [p["arrival"] for p in fragile] == ["closed"]
    assert "no rates between, for an extreme failed" in done.err
    assert len(almanac.points()) == 5


def test_an_engine_that_ends_after_its_last_answer_costs_no_point(almanac):
    # 4 requests of the warm-up and 4 of the point.
    path = almanac.campaign(almanac.engine("tired", "--behaviour", "exit", "--after", 8),
                            sweep="min_requests = 4, max_requests = 4")
    path.write_text(path.read_text().replace("repeats = 1", "repeats = 2"))
    done = almanac.run("--only", "*/*/*/closed")
    assert done.code == 1, done.err
    assert [(p["repeat"], p["errors"]) for p in almanac.points()] == [(0, 0), (1, 0)], done.err
    assert [(f["failure"], f["what"]) for f in almanac.failures()] == [
        ("crashed", "between points")]


def test_a_hung_engine_is_given_up_and_killed_where_it_ignores_sigterm(almanac):
    path = almanac.campaign(almanac.engine("stuck", "--behaviour", "hang", "--after", 4),
                            almanac.engine("deaf", "--behaviour", "ignore-term"))
    path.write_text(path.read_text().replace("point_timeout_s = 30", "point_timeout_s = 2"))
    done = almanac.run()
    assert done.code == 1
    assert [(f["engine"], f["failure"]) for f in almanac.failures()] == [("stuck", "hung")] * 2
    assert "not finished after 2 s; given up" in done.err
    assert "deaf/tiny: did not end within 1 s of SIGTERM and was killed" in done.err
    assert {p["engine"] for p in almanac.points()} == {"deaf"}


def test_a_shared_prefix_is_shared_within_a_point_only(almanac):
    path = almanac.campaign(almanac.engine("fake"), sweep="min_requests = 4, max_requests = 4")
    path.write_text(path.read_text() + "prefix_share = 0.5\n")
    assert almanac.run("--only", "*/*/*/closed").code == 0
    assert almanac.run("--only", "*/*/*/burst").code == 0
    assert [p["prefix_share"] for p in almanac.points()] == [0.5, 0.5]
    prompts = [json.loads(line)[2] for line in almanac.seen.read_text().splitlines()]
    # Each run: two warm-ups of two, then the point.
    heads = [tuple(prompt[:4]) for prompt in prompts]
    for point in (heads[4:8], heads[12:16]):
        assert len(set(point)) == 1 and point[0] not in heads[:4]
    assert heads[4] != heads[12]
    assert len({tuple(prompt) for prompt in prompts[4:8] + prompts[12:16]}) == 8


def test_a_gpu_that_is_not_there_is_named(almanac):
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
        pytest.skip("NVML is there")
    except OSError:
        pass
    path = almanac.campaign(almanac.engine("fake"))
    path.write_text(path.read_text().replace('device = "cpu"', 'device = "cuda"'))
    engine = almanac.folder / "engines" / "fake.toml"
    engine.write_text(engine.read_text().replace('["cpu"]', '["cuda"]'))
    almanac.slipstream.refuses(4, *almanac.arguments(),
                               says='device = "cuda": NVML (libnvidia-ml.so.1) is not there')


def start(almanac):
    return subprocess.Popen([almanac.slipstream.binary, *map(str, almanac.arguments())],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_killed_run_leaves_no_engine_and_goes_on_where_it_was(almanac):
    almanac.campaign(almanac.engine("fake", "--token-s", 0.02))
    runner = start(almanac)
    wait_until(lambda: almanac.points())
    runner.kill()
    runner.communicate(timeout=30)
    assert almanac.is_gone()
    kept = almanac.points()
    assert 1 <= len(kept) < 4
    done = almanac.run()
    assert done.code == 0 and f" {len(kept)} there already" in done.err, done.err
    assert len(almanac.points()) == 4
    for point in kept:
        assert point in almanac.points()


def test_ctrl_c_stops_the_engine_and_keeps_what_is_measured(almanac):
    almanac.campaign(almanac.engine("fake", "--token-s", 0.02))
    runner = start(almanac)
    wait_until(lambda: almanac.points())
    locked = almanac.run()
    assert locked.code == 1 and "is being run by another process" in locked.err
    runner.send_signal(signal.SIGINT)
    err = runner.communicate(timeout=30)[1].decode()
    assert runner.returncode == 1 and "interrupted: run it again to go on" in err
    assert almanac.is_gone() and almanac.points() and almanac.failures() == []


def test_a_dry_run_prints_the_plan_and_starts_nothing(almanac):
    almanac.campaign(almanac.engine("fake"), almanac.engine("other"))
    done = almanac.run("--dry-run", "--only", "fake")
    assert done.code == 0 and not almanac.store.exists() and almanac.num_seen() == 0
    lines = done.out.splitlines()
    assert lines[0].startswith("fake/tiny: ") and "model.gguf --host 127.0.0.1 --port PORT" in lines[0]
    assert lines[1] == "  8x4: one at a time, all at once (16 requests), up to 2 constant rates between"
    assert lines[2].startswith("1 engine start, at most 4 points (1 repeat); about 1 min at 1 s")
    assert "other" not in done.out


def test_filters_select_and_contradictions_are_named(almanac):
    almanac.campaign(almanac.engine("fake"))
    refuses = almanac.slipstream.refuses
    for only, says in (("vllm", "selects nothing of campaign 'fakes'; it has fake/tiny; shapes 8x4"),
                       ("fake/tiny/8x5", "shapes 8x4"), ("fake/tiny/8x4/poisson", "arrivals burst"),
                       ("fake//8x4", "CONFIGURATION[/MODEL[/INxOUT[/ARRIVAL]]]")):
        refuses(2, *almanac.arguments("--only", only), says=says)
    done = almanac.run("--only", "*/*/*/constant")
    assert done.code == 2 and "one at a time is not measured yet" in done.err
    assert almanac.run("--only", "fake/*/8x4/closed").code == 0
    assert [p["arrival"] for p in almanac.points()] == ["closed"]


def test_a_malformed_campaign_is_refused_by_line(almanac):
    path = almanac.campaign(almanac.engine("fake"), sweep='rates = 11, arrival = "burst"')
    done = almanac.run()
    assert (done.code, done.out) == (2, "")
    assert f"{path}:9: rates must be from 0 to 10" in done.err
    assert f"{path}:9: 'burst' is not one of constant, poisson" in done.err
    path.write_text("kind =\n")
    almanac.slipstream.refuses(2, *almanac.arguments(), says="line 1")
    almanac.campaign("fake")
    path.write_text(path.read_text().replace("model.gguf", "none.gguf"))
    assert "none.gguf" in almanac.slipstream.refuses(2, *almanac.arguments()).err


def test_a_full_disk_keeps_what_is_stored_and_prints_what_is_not(almanac):
    loads = "".join(f'[[loads]]\narrival = "closed"\nconcurrency = {num}\nrequests = 8\n'
                    for num in range(1, 9))
    path = almanac.campaign(almanac.engine("fake"), extra=loads)
    path.write_text(re.sub("sweep = .*", "", path.read_text()))

    def limit():  # what the store needs to be opened, and room for some of the points
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run([almanac.slipstream.binary, *map(str, almanac.arguments())],
                          capture_output=True, timeout=60, preexec_fn=limit, check=False)
    err = done.stderr.decode()
    assert done.returncode == 1 and "free disk space and run it again" in err, err
    kept = almanac.points()
    assert 0 < len(kept) < 8
    unstored = almanac.folder / "unstored.jsonl"
    unstored.write_bytes(done.stdout)
    assert almanac.slipstream.run("almanac", "import", unstored, "--store", almanac.store).code == 0
    assert [p["concurrency"] for p in almanac.points()] == list(range(1, len(kept) + 2))
    assert almanac.run().code == 0 and len(almanac.points()) == 8
