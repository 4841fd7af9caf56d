"""slipstream almanac: points in and out of the store, contributed files checked and copied."""

import csv
import io
import json
import re
import shutil
import sqlite3
import subprocess
import urllib.error
import urllib.request

import pytest

from conftest import ROOT

RESULTS = ROOT / "bench" / "results"
ENGINE = ROOT / "almanac" / "engines" / "vllm.toml"


def record(**changes):
    spread = dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "p999", "max"), 12.5)
    return {"schema": 1, "kind": "serve", "engine": "slipstream", "engine_version": "0.1.0",
            "started_at": "2026-11-27T07:34:46Z", "command": "slipstream bench serve",
            "host": {"cpu": "a CPU", "gpus": ["NVIDIA H100"]},
            "model": {"name": "qwen3-8b", "weights": "fp8", "kv": "bf16"},
            "config": {"input_len": 128, "output_len": 1024}, "repeat": 0, "arrival": "closed 64",
            "requests": 192, "errors": 0, "seconds": 15.5, "ttft_ms": spread, "itl_ms": spread,
            "tpot_ms": spread, "e2e_ms": spread, "output_tok_s": 12616.5, "requests_s": 12.25,
            **changes}


def write(path, *records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


@pytest.fixture
def store(tmp_path):
    return tmp_path / "almanac.db"


def test_points_go_in_once_and_come_out_the_same(slipstream, store, tmp_path):
    first = write(tmp_path / "first.jsonl", record(), record(repeat=1))
    second = write(tmp_path / "second.jsonl", record(config={"input_len": 1024, "output_len": 128}))
    done = slipstream.run("almanac", "import", first, second, "--store", store)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("3 stored, 0 already there, 0 skipped")
    again = slipstream.run("almanac", "import", second, first, "--store", store)
    assert again.out.startswith("0 stored, 3 already there")

    lines = slipstream.run("almanac", "export", "--jsonl", "--store", store)
    assert [(p["tokens_in"], p["repeat"]) for p in lines.lines] == [(128, 0), (128, 1), (1024, 0)]
    assert lines.lines[0]["record"] == record()
    other = tmp_path / "other.db"
    (tmp_path / "lines.jsonl").write_text(lines.out)
    assert slipstream.run("almanac", "import", tmp_path / "lines.jsonl", "--store", other).code == 0
    assert slipstream.run("almanac", "export", "--jsonl", "--store", other).out == lines.out

    table = list(csv.DictReader(io.StringIO(
        slipstream.run("almanac", "export", "--csv", "--store", store, "--tokens-in", 1024).out)))
    assert len(table) == 1 and table[0]["model"] == "qwen3-8b" and table[0]["ttft_ms_p999"] == "12.5"
    for flags, number in ((["--gpu", "h100"], 3), (["--gpu", "cpu"], 0), (["--model", "other"], 0),
                          (["--engine", "slipstream", "--tokens-out", 1024], 2)):
        out = slipstream.run("almanac", "export", "--jsonl", "--store", store, *flags)
        assert len(out.lines) == number, flags
    listed = slipstream.run("almanac", "list", "--store", store).out.splitlines()
    assert len(listed) == 3 and listed[1].split()[0] == "qwen3-8b" and "12617" in listed[1]


def test_a_store_of_an_older_version_gets_the_new_columns(slipstream, store, tmp_path):
    first = write(tmp_path / "first.jsonl", record())
    assert slipstream.run("almanac", "import", first, "--store", store).code == 0
    with sqlite3.connect(store) as database:
        for column in ("invalid_reason", "stalls"):
            database.execute(f"ALTER TABLE points DROP COLUMN {column}")
        database.execute("PRAGMA user_version = 1")
    slipstream.refuses(1, "almanac", "export", "--jsonl", "--store", store,
                       says=("an older version wrote it (schema 1", "almanac import"))
    second = write(tmp_path / "second.jsonl", record(repeat=1, stalls={"over_ms": 200, "count": 2},
                                                     invalid_reasons=["late"]))
    assert slipstream.run("almanac", "import", first, second, "--store", store).out.startswith(
        "1 stored, 1 already there")
    points = slipstream.run("almanac", "export", "--jsonl", "--store", store).lines
    assert [p.get("stalls") for p in points] == [None, 2]
    assert points[1]["invalid_reason"] == "late"


def test_this_repositorys_records_are_points(slipstream, store):
    files = sorted(RESULTS.glob("*throughput.jsonl"))
    done = slipstream.run("almanac", "import", *files, "--store", store)
    assert (done.code, done.err) == (0, "")
    num_stored = int(done.out.split()[0])
    measured = [json.loads(line) for f in files for line in f.read_text().splitlines()]
    assert num_stored == sum(not r.get("summary") for r in measured)


def test_bad_rows_are_named_and_cost_no_good_one(slipstream, store, tmp_path):
    path = write(tmp_path / "rows.jsonl", record(requests="many"), record(), record(model=None))
    path.write_text(path.read_text() + json.dumps(record(repeat=7))[:200])
    done = slipstream.run("almanac", "import", path, "--store", store)
    assert done.code == 1
    assert done.out == "1 stored, 0 already there, 0 skipped (no points), 3 refused\n"
    lines = done.err.splitlines()
    assert lines[0] == (f"{path}:1: columns of the wrong type: requests (a whole number from 0"
                        " is expected)")
    assert lines[1].startswith(f"{path}:3: missing columns: server.engine (--set engine=VALUE), ")
    assert lines[2].startswith(f"{path}:4: ") and "the file ends within this line" in lines[2]
    given = slipstream.run("almanac", "import", write(path, record(model=None, repeat=3)), "--store",
                           store, "--set", "model=m", "--set", "weights=bf16", "--set",
                           "engine=vllm", "--set", "engine_version=0.10.1")
    assert given.code == 0 and given.out.startswith("1 stored")


def test_stores_that_are_none_are_refused_in_one_line(slipstream, store, tmp_path):
    path = write(tmp_path / "rows.jsonl", record())
    slipstream.refuses(1, "almanac", "export", "--jsonl", "--store", store, says="is not there")
    slipstream.refuses(2, "almanac", "export", "--store", store, says="--jsonl and --csv")
    assert slipstream.run("almanac", "import", path, "--store", store).code == 0
    with sqlite3.connect(store) as database:
        database.execute("PRAGMA user_version = 3")
    database.close()
    for command in (("import", path), ("export", "--csv"), ("list",)):
        slipstream.refuses(1, "almanac", *command, "--store", store, says="schema 3, this one knows 2")
    slipstream.refuses(2, "almanac", "import", path, "--set", "speed=1", says="COLUMN=VALUE")


def test_add_copies_a_valid_file_and_explains_a_bad_one(slipstream, tmp_path):
    folder = tmp_path / "almanac"
    added = slipstream.run("almanac", "add", ENGINE, "--to", folder)
    assert added.code == 0 and added.out.startswith("engine 'vllm' is valid; copied to ")
    assert (folder / "engines" / "vllm.toml").read_bytes() == ENGINE.read_bytes()
    assert "was there already" in slipstream.run("almanac", "add", ENGINE, "--to", folder).out

    bad = tmp_path / "bad.toml"
    bad.write_text('kind = "configuration"\nname = "tuned"\nengine = "vlm"\ncolour = "red"\n')
    done = slipstream.run("almanac", "add", bad, "--to", folder)
    assert (done.code, done.out) == (2, "")
    lines = done.err.splitlines()
    assert lines[0].startswith(f"{bad}:1: key 'description' is missing; add description = ")
    assert lines[1].startswith(f"{bad}:3: unknown engine 'vlm'; known: vllm")
    assert lines[2].startswith(f"{bad}:4: unknown key 'colour'; remove it or use one of kind")
    assert not (folder / "configurations").exists()

    shutil.copy(ENGINE, bad)
    bad.write_text(bad.read_text().replace("Apache-2.0", "MIT"))
    slipstream.refuses(1, "almanac", "add", bad, "--to", folder, says="another file of this name")
    slipstream.refuses(2, "almanac", "add", tmp_path / "none.toml", "--to", folder, says="none.toml")


def test_the_page_is_written_as_a_folder_and_replaced_as_one(slipstream, store, tmp_path):
    assert slipstream.run("almanac", "import", write(tmp_path / "r.jsonl", record()), "--store",
                          store).code == 0
    site = tmp_path / "new" / "site"
    done = slipstream.run("almanac", "export", site, "--store", store)
    assert (done.code, done.out, done.err) == (0, f"{site}/index.html\n", "")
    files = sorted(str(path.relative_to(site)) for path in site.rglob("*") if path.is_file())
    assert files == ["almanac/points.csv", "almanac/points.db", "almanac/points.js",
                     "almanac/points.jsonl", "assets/almanac/almanac.css",
                     "assets/almanac/almanac.js", "assets/shared/base.css", "assets/shared/mark.svg",
                     "assets/vendor/chart.js", "index.html"]
    assert (site / "almanac/points.jsonl").read_text() == slipstream.run(
        "almanac", "export", "--jsonl", "--store", store).out
    with sqlite3.connect(site / "almanac/points.db") as database:
        assert database.execute("SELECT model FROM points").fetchall() == [("qwen3-8b",)]
    database.close()
    page = (site / "index.html").read_text()
    for name in re.findall(r'(?:src|href)="([^"#]+)"', page):
        assert (site / name).is_file(), name

    slipstream.run("almanac", "import", write(tmp_path / "r.jsonl", record(repeat=1)), "--store", store)
    assert slipstream.run("almanac", "export", site, "--store", store).code == 0
    assert (site / "almanac/points.jsonl").read_text().count("\n") == 2


def test_the_page_is_never_written_over_something_else(slipstream, store, tmp_path):
    path = write(tmp_path / "rows.jsonl", record())
    slipstream.refuses(1, "almanac", "export", tmp_path / "site", "--store", store, says="is not there")
    slipstream.run("almanac", "import", path, "--store", store)
    slipstream.refuses(2, "almanac", "export", tmp_path, "--store", store, says="holds other files")
    slipstream.refuses(2, "almanac", "export", path, "--store", store, says="is a file")
    for flags in (["--csv"], ["--jsonl"]):
        slipstream.refuses(2, "almanac", "export", tmp_path / "site", *flags, "--store", store,
                           says="give one of")
    slipstream.refuses(2, "almanac", "export", tmp_path / "site", "--model", "m", "--store", store,
                       says="filters them itself")
    assert not (tmp_path / "site").exists()
    slipstream.refuses(1, "almanac", "export", "/proc/site", "--store", store, says="cannot be written")


def test_page_serves_its_files_and_nothing_else(slipstream, store, tmp_path):
    slipstream.refuses(1, "almanac", "page", "--store", store, says="is not there")
    slipstream.run("almanac", "import", write(tmp_path / "r.jsonl", record()), "--store", store)
    process = slipstream.start("almanac", "page", "--store", store, "--port", "0",
                               stdout=subprocess.PIPE)
    try:
        url = re.search(r"http://\S+", process.stdout.readline().decode())[0]
        with urllib.request.urlopen(url) as page:
            assert "default-src 'none'" in page.headers["Content-Security-Policy"]
            assert page.headers["X-Content-Type-Options"] == "nosniff"
        with urllib.request.urlopen(f"{url}/points.jsonl") as file:
            assert json.loads(file.read())["model"] == "qwen3-8b"
        port = url.split(":")[2].split("/")[0]
        slipstream.refuses(1, "almanac", "page", "--store", store, "--port", port, says=port)
        for path, status in (("/almanac/almanac.db", 404), ("/v1/models", 404), ("/assets/", 404)):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(url.removesuffix("/almanac") + path)
            assert refused.value.code == status
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(url, data=b"{}")
        assert refused.value.code == 405
    finally:
        process.terminate()
        process.stdout.close()
        assert process.wait(30) == 0
        process.stderr.close()


def test_a_model_server_shows_the_points_it_is_given_to_everyone(slipstream, stories, store, tmp_path):
    serve = ("serve", stories, "--port", "0", "--no-usage", "--api-key", "secret")
    slipstream.refuses(1, *serve, "--almanac", store, says="is not there")
    slipstream.run("almanac", "import", write(tmp_path / "r.jsonl", record()), "--store", store)
    process = slipstream.start(*serve, "--almanac", store, stdout=subprocess.PIPE)
    try:
        url = re.search(r"http://\S+", process.stdout.readline().decode())[0]
        with urllib.request.urlopen(f"{url}/almanac/points.csv") as file:
            assert b"qwen3-8b" in file.read()
        with urllib.request.urlopen(f"{url}/almanac") as page:
            assert b"almanac/points.js" in page.read()
    finally:
        process.terminate()
        process.communicate(timeout=60)
