"""A real `slipstream serve` as a child process, for every suite that talks to one.

Owns the process: start until its ready line, stop, kill. What is asked of it is the tests' say.
"""

import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
STORIES = SHARED / "models" / "stories260K" / "hf"
DEFAULT_MODEL = "models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf"
CHAT_TEMPLATE = ("{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n"
                 "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}")
READY = re.compile(r"slipstream: serving (.+) on (http://\S+)")
START_S = 60
STOP_S = 40


def find_binary():
    binary = Path(os.environ.get("SLIPSTREAM_BUILD_DIR", ROOT / "build")) / "slipstream"
    if not binary.is_file():
        pytest.fail(f"{binary} is not there; `make` builds it")
    return str(binary)


def stories_with_template(folder):
    """stories260K, which brings no chat template, with one."""
    if not STORIES.is_dir():
        pytest.skip(f"{STORIES} is not there")
    shutil.copytree(STORIES, folder)
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    settings["chat_template"] = CHAT_TEMPLATE
    config.write_text(json.dumps(settings))
    return folder


def default_model():
    home = Path(os.environ.get("SLIPSTREAM_HOME") or Path.home() / ".cache" / "slipstream")
    if not (home / DEFAULT_MODEL).is_file():
        pytest.skip("the default model is not in the cache; `slipstream pull` fetches it")
    return "smollm2-135m"


def no_work_is_left(metrics):
    return (metrics["vllm:num_requests_running"] == 0 and metrics["vllm:num_requests_waiting"] == 0
            and metrics["vllm:kv_cache_usage_perc"] == 0)


class LiveServer:
    """`with LiveServer(model, folder, "--api-key", "k") as server:` server.url is where it is."""

    def __init__(self, model, folder, *flags):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.usage_db = self.folder / "usage.db"
        self.log_path = self.folder / "stderr.log"
        command = [find_binary(), "serve", str(model), "--port", "0", *map(str, flags)]
        if "--no-usage" not in flags:
            command += ["--usage-db", str(self.usage_db)]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                            stdout=subprocess.PIPE, stderr=log)
        try:
            self.model, self.url = self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def _wait_until_ready(self):
        deadline = time.monotonic() + START_S
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                left_s = deadline - time.monotonic()
                assert left_s > 0 and selector.select(left_s), f"not ready: {self.log()}"
                byte = os.read(self.process.stdout.fileno(), 4096)
                assert byte, f"the server ended at its start: {self.log()}"
                line += byte
        match = READY.match(line.decode())
        assert match, f"no ready line but {line!r}"
        return match.group(1), match.group(2)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    @property
    def api(self):
        return self.url + "/v1"

    def log(self):
        return self.log_path.read_text(errors="replace")

    def get(self, path, headers=None):
        """The body of a GET, as text."""
        request = urllib.request.Request(self.url + path, headers=headers or {})
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.read().decode()

    def metrics(self):
        """{name: the sum over its labels}"""
        values = {}
        for line in self.get("/metrics").splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                name = name.split("{")[0]
                values[name] = values.get(name, 0.0) + float(value)
        return values

    def wait_for(self, condition, what, timeout_s=10.0):
        """Until condition(metrics) holds; a server that hangs fails."""
        deadline = time.monotonic() + timeout_s
        while not condition(metrics := self.metrics()):
            assert time.monotonic() < deadline, f"never: {what}; {metrics}"
            time.sleep(0.01)
        return metrics

    def wait_until_idle(self):
        return self.wait_for(no_work_is_left, "idle with every KV block free")

    def is_idle(self):
        return no_work_is_left(self.metrics())

    def interrupt(self):
        self.process.send_signal(signal.SIGTERM)

    def stop(self):
        """SIGTERM; the exit code."""
        self.interrupt()
        return self.process.wait(timeout=STOP_S)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
