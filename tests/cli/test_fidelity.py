"""The default model's fast kernels against its float32 reference, on real text and 32 prompts."""

import gzip

import pytest
from conftest import shared_path

TIMEOUT_S = 3000


@pytest.mark.slow
def test_teacher_forced_text_is_scored_like_the_reference(slipstream, default_model, tmp_path):
    text = tmp_path / "wikitext2.txt"
    with gzip.open(shared_path("data", "wikitext2_raw_test.txt.gz")) as packed:
        text.write_bytes(packed.read(100_000).decode("utf-8", "ignore").encode())
    result = slipstream.run("check", "fidelity", "-m", default_model, "-f", text, "--window", "512",
                            "--max-windows", "4", "--json", timeout_s=TIMEOUT_S)
    assert result.code == 0, result.err
    windows = result.json["windows"]
    assert windows["tokens"] == 4 * 511
    assert abs(windows["perplexity_error"]) <= 5e-3
    assert windows["mean_kl"] <= 5e-4
    assert windows["mean_abs_logprob_error"] <= 0.02


@pytest.mark.slow
def test_greedy_answers_are_the_reference_answers(slipstream, default_model):
    result = slipstream.run("check", "fidelity", "-m", default_model, "--greedy", "--json",
                            timeout_s=TIMEOUT_S)
    greedy = result.json["greedy"]
    assert result.code == 0, greedy["different"]
    assert greedy["equal"] == greedy["prompts"] == 32
    assert greedy["compared_at_least_8"] >= 24
