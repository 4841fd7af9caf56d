"""Fixtures of the command-line tests: the binary, the shared models, and models made on the spot."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
DEFAULT_MODEL = "models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf"
CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def pytest_addoption(parser):
    parser.addoption("--binary", default=None, help="the slipstream binary to test")


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def lines(self):
        return [json.loads(line) for line in self.out.split("\n") if line]


class Slipstream:
    """Runs the binary; every run has a time limit, so a hang is a failure."""

    def __init__(self, binary):
        self.binary = binary

    def run(self, *args, stdin=b"", env=None, timeout_s=60):
        if isinstance(stdin, str):
            stdin = stdin.encode()
        done = subprocess.run([self.binary, *map(str, args)], input=stdin, capture_output=True,
                              timeout=timeout_s, env=dict(os.environ, **(env or {})), check=False)
        return Result(done.returncode, done.stdout.decode("utf-8", "replace"),
                      done.stderr.decode("utf-8", "replace"))

    def start(self, *args, **kwargs):
        return subprocess.Popen([self.binary, *map(str, args)], stderr=subprocess.PIPE, **kwargs)

    def refuses(self, code, *args, says=(), **kwargs):
        """Nothing on stdout, one line on stderr that contains every text of `says`."""
        result = self.run(*args, **kwargs)
        assert result.code == code, (result.code, result.err)
        assert result.out == ""
        assert result.err.count("\n") == 1 and result.err.endswith("\n"), result.err
        assert result.err.startswith("slipstream") and ": error: " in result.err, result.err
        for text in [says] if isinstance(says, str) else says:
            assert text in result.err, result.err
        return result


@pytest.fixture(scope="session")
def slipstream(request):
    binary = request.config.getoption("--binary", default=None)
    if binary is None:
        binary = Path(os.environ.get("SLIPSTREAM_BUILD_DIR", ROOT / "build")) / "slipstream"
    if not Path(binary).is_file():
        pytest.fail(f"{binary} is not there; `make` builds it")
    return Slipstream(str(binary))


def shared_path(*parts):
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


@pytest.fixture(scope="session")
def stories():
    return shared_path("models", "stories260K", "stories260K.gguf")


@pytest.fixture(scope="session")
def stories_hf():
    return shared_path("models", "stories260K", "hf")


@pytest.fixture(scope="session")
def chat_model(stories_hf, tmp_path_factory):
    """stories260K with a chat template."""
    folder = tmp_path_factory.mktemp("chat") / "stories-chat"
    shutil.copytree(stories_hf, folder)
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    settings["chat_template"] = CHAT_TEMPLATE
    config.write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="session")
def dummy_model(tmp_path_factory):
    """A configuration without weights whose answers last long enough to be interrupted."""
    folder = tmp_path_factory.mktemp("dummy") / "dummy"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128,
        "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 4096, "max_position_embeddings": 65536,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": True}))
    return folder


@pytest.fixture(scope="session")
def default_model():
    home = Path(os.environ.get("SLIPSTREAM_HOME") or Path.home() / ".cache" / "slipstream")
    if not (home / DEFAULT_MODEL).is_file():
        pytest.skip("the default model is not in the cache; `slipstream pull` fetches it")
    return "smollm2-135m"
