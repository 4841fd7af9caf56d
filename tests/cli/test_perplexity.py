"""slipstream perplexity: the definition, checked against the logprobs `run` reports."""

import json
import math

import pytest

TEXT = ("Once upon a time, there was a little girl named Lily. She loved to play outside in the "
        "park. One day, she saw a big, red ball. She wanted to play with it, but it was too high. ")


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("perplexity") / "text.txt"
    path.write_text(TEXT * 3)
    return path


def token_nlls(slipstream, model, ids):
    """Negative log-likelihoods of ids 2..N."""
    answer = slipstream.run("run", "-m", model, "--skip-tokenizer-init", "-p", json.dumps(ids),
                            "-n", "1", "--json", "--prompt-logprobs", "0").json
    return [-each["logprob"] for each in answer["prompt_logprobs"][1:]]


def test_windows_start_with_bos_and_empty_and_score_all_but_their_first_token(
        slipstream, stories, text_file):
    window = 48
    result = slipstream.run("perplexity", "-m", stories, "-f", text_file, "--window", window,
                            "--max-windows", "2", "--json")
    assert result.code == 0, result.err
    ids = slipstream.run("tokenize", "-m", stories, "--no-add-special",
                         stdin=json.dumps(TEXT * 3) + "\n").lines[0]
    nlls = []
    for begin in (0, window):
        nlls += token_nlls(slipstream, stories, [1] + ids[begin + 1:begin + window])
    got = result.json
    assert got["windows"] == 2 and got["tokens"] == len(nlls) == 2 * (window - 1)
    assert got["nll"] == pytest.approx(sum(nlls) / len(nlls), abs=1e-6)
    assert got["perplexity"] == pytest.approx(math.exp(got["nll"]))


def test_a_last_partial_window_is_dropped(slipstream, stories, text_file):
    num_ids = len(slipstream.run("tokenize", "-m", stories, "--no-add-special",
                                 stdin=json.dumps(TEXT * 3) + "\n").lines[0])
    got = slipstream.run("perplexity", "-m", stories, "-f", text_file, "--window", "50",
                         "--json").json
    assert got["windows"] == num_ids // 50
    assert got["tokens"] == got["windows"] * 49


def test_a_window_as_long_as_the_context(slipstream, stories, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text(TEXT * 8)
    got = slipstream.run("perplexity", "-m", stories, "-f", path, "--window", "128",
                         "--max-windows", "1", "--json")
    assert got.code == 0, got.err
    assert got.json["tokens"] == 127


def test_what_cannot_be_scored(slipstream, stories, text_file, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("Once")
    slipstream.refuses(2, "perplexity", "-m", stories, says="--file")
    slipstream.refuses(2, "perplexity", "-m", stories, "-f", short, says="less than one window")
    slipstream.refuses(2, "perplexity", "-m", stories, "-f", text_file, "--window", "1",
                       says="--window '1'")
