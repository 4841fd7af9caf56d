"""The fast kernels keep the default model's quality: `slipstream check fidelity` on real text and
on 32 prompts, against the float32 reference. Skips without the model or the text."""

import gzip
import json
import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
MODEL = "models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT = ROOT.parent / "shared" / "data" / "wikitext2_raw_test.txt.gz"
NUM_TEXT_CHARACTERS = 20_000  # more than the 2,048 tokens that are scored


@pytest.fixture(scope="module")
def check_fidelity():
    home = Path(os.environ.get("SLIPSTREAM_HOME") or Path.home() / ".cache" / "slipstream")
    if not (home / MODEL).is_file():
        pytest.skip("the default model is not in the cache; `slipstream pull` fetches it")
    binary = Path(os.environ.get("SLIPSTREAM_BUILD_DIR", ROOT / "build")) / "slipstream"

    def run(*args):
        done = subprocess.run([binary, "check", "fidelity", "-m", home / MODEL, "--json", *args],
                              capture_output=True, text=True, check=False, timeout=3000)
        assert done.returncode in (0, 1), done.stderr
        return json.loads(done.stdout)

    return run


def test_perplexity_and_logprobs_of_real_text_stay_within_bounds(check_fidelity, tmp_path):
    if not TEXT.is_file():
        pytest.skip(f"{TEXT} is not there")
    text = tmp_path / "text.txt"
    with gzip.open(TEXT, "rt", encoding="utf-8") as source:
        text.write_text(source.read(NUM_TEXT_CHARACTERS), encoding="utf-8")
    windows = check_fidelity("-f", text, "--window", "512", "--max-windows", "4")["windows"]
    assert windows["windows"] == 4
    assert abs(windows["perplexity_error"]) <= 0.005
    assert windows["mean_kl"] <= 5e-4
    assert windows["mean_abs_logprob_error"] <= 0.02


def test_greedy_answers_to_32_prompts_equal_the_reference(check_fidelity):
    greedy = check_fidelity("--greedy")["greedy"]
    assert greedy["prompts"] == 32
    assert greedy["equal"] == 32, greedy["different"]
    assert greedy["compared_at_least_8"] >= 24
