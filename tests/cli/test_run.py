"""slipstream run: the answer, the JSON object, and how it ends."""

import fcntl
import json
import signal
import subprocess
import time

from conftest import shared_path

GREEDY = ("--temperature", "0")


def test_greedy_text_from_bos_alone_is_the_golden_text(slipstream, stories_hf):
    golden = shared_path("models", "stories260K", "greedy_200.txt").read_text()
    result = slipstream.run("run", stories_hf, "-p", "", "-n", "200", *GREEDY)
    assert result.code == 0, result.err
    assert result.out.strip() == golden.strip()


def test_an_answer_ends_with_the_context_whatever_max_tokens_says(slipstream, stories):
    golden = shared_path("models", "stories260K", "greedy_200.txt").read_text()
    for flags in ((), ("-n", "200")):
        result = slipstream.run("run", stories, "-p", "", "--json", "--ignore-eos", *flags, *GREEDY)
        assert result.code == 0, result.err
        answer = result.json
        assert answer["prompt_tokens"] + answer["completion_tokens"] == 128
        assert answer["finish_reason"] == "length"
        assert golden.strip().startswith(answer["text"].strip())


def test_every_format_of_a_model_answers(slipstream, stories, stories_hf):
    texts = [slipstream.run("run", "-m", model, "-p", "Once upon a time", "-n", "16", *GREEDY)
             for model in (stories, stories_hf, stories.with_name("stories260K-Q8_0.gguf"))]
    assert [each.code for each in texts] == [0, 0, 0], [each.err for each in texts]
    assert texts[0].out == texts[1].out


def test_json_object_has_every_field(slipstream, stories):
    result = slipstream.run("run", "-m", stories, "-p", "Once", "-n", "8", "--json", "--logprobs",
                            "3", "--prompt-logprobs", "2", *GREEDY)
    assert result.code == 0, result.err
    answer = result.json
    assert len(answer["token_ids"]) == answer["completion_tokens"] == 8
    assert answer["finish_reason"] == "length"
    assert answer["prompt_tokens"] == len(answer["prompt_token_ids"])
    assert answer["prompt_token_ids"][0] == 1
    timings = answer["timings"]
    assert set(timings) >= {"load_s", "ttft_ms", "prefill_tok_s", "decode_tok_s", "roof_tok_s",
                            "roof_fraction"}
    assert timings["decode_tok_s"] > 0 and timings["roof_tok_s"] > 0
    assert abs(timings["decode_tok_s"] / timings["roof_tok_s"] - timings["roof_fraction"]) < 1e-6
    assert answer["model"] == "stories260K"
    assert answer["device"] == "cpu" and answer["executor"] == "eager"
    assert [each["id"] for each in answer["logprobs"]] == answer["token_ids"]
    for each in answer["logprobs"]:
        assert len(each["top"]) == 3
        assert each["top"][0] == [each["id"], each["logprob"]]  # greedy takes the likeliest
    prompt_logprobs = answer["prompt_logprobs"]
    assert len(prompt_logprobs) == answer["prompt_tokens"] and prompt_logprobs[0] is None
    assert [each["id"] for each in prompt_logprobs[1:]] == answer["prompt_token_ids"][1:]
    assert all(each["logprob"] < 0 for each in prompt_logprobs[1:])


def test_speed_goes_to_stderr_on_one_line(slipstream, stories):
    result = slipstream.run("run", "-m", stories, "-p", "Once", "-n", "8", *GREEDY)
    assert result.err.count("\n") == 1
    for word in ("prompt tokens", "TTFT", "prefill", "decode", "roof", "%"):
        assert word in result.err


def test_prompt_comes_from_argument_file_or_stdin(slipstream, stories, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("Once upon")
    flags = ("run", "-m", stories, "-n", "8", "--json", *GREEDY)
    answers = [slipstream.run(*flags, "-p", "Once upon").json,
               slipstream.run(*flags, "-f", file).json,
               slipstream.run(*flags, stdin="Once upon\n").json]
    assert answers[0]["token_ids"] == answers[1]["token_ids"] == answers[2]["token_ids"]
    assert answers[0]["text"] == answers[2]["text"]


def test_a_seed_gives_the_same_answer_and_another_seed_another(slipstream, stories):
    flags = ("run", "-m", stories, "-p", "Once", "-n", "24", "--json", "--temperature", "1.5")
    answers = [slipstream.run(*flags, "--seed", seed).json for seed in (7, 7, 8)]
    assert answers[0]["seed"] == 7
    assert answers[0]["token_ids"] == answers[1]["token_ids"]
    assert answers[0]["token_ids"] != answers[2]["token_ids"]
    drawn = slipstream.run(*flags).json
    again = slipstream.run(*flags, "--seed", drawn["seed"]).json
    assert drawn["token_ids"] == again["token_ids"]


def test_stop_text_ends_the_answer_and_is_not_part_of_it(slipstream, stories):
    result = slipstream.run("run", "-m", stories, "-p", "", "-n", "100", "--json", "--stop", "Lily",
                            "--stop", "never seen", *GREEDY)
    answer = result.json
    assert answer["finish_reason"] == "stop"
    assert answer["text"].endswith("named ") and "Lily" not in answer["text"]


def test_threads_and_kernels_do_not_change_the_order_of_tokens(slipstream, stories):
    flags = ("run", "-m", stories, "-p", "Once", "-n", "64", "--json", *GREEDY)
    one = slipstream.run(*flags, "-t", "1").json
    default = slipstream.run(*flags).json
    assert one["token_ids"] == default["token_ids"]


def test_system_message_goes_through_the_template(slipstream, chat_model):
    flags = ("run", "-m", chat_model, "-p", "Hi", "-n", "4", "--json", *GREEDY)
    with_system = slipstream.run(*flags, "--system", "Be kind").json
    without = slipstream.run(*flags).json
    raw = slipstream.run(*flags, "--raw").json
    ids = [each["prompt_token_ids"] for each in (with_system, without, raw)]
    texts = slipstream.run("detokenize", "-m", chat_model,
                           stdin="".join(json.dumps(each) + "\n" for each in ids)).lines
    assert "system: Be kind" in texts[0] and "user: Hi" in texts[0]
    assert "system" not in texts[1] and "user: Hi" in texts[1]
    assert "user" not in texts[2] and "Hi" in texts[2]


def test_ids_in_ids_out_without_a_tokenizer(slipstream, stories):
    with_text = slipstream.run("run", "-m", stories, "-p", "Once", "-n", "8", "--json",
                               *GREEDY).json
    result = slipstream.run("run", "-m", stories, "--skip-tokenizer-init", "-p",
                            json.dumps(with_text["prompt_token_ids"]), "-n", "8", *GREEDY)
    assert [int(each) for each in result.out.split()] == with_text["token_ids"]


def test_config_file_sets_flags_and_flags_win(slipstream, stories, tmp_path):
    toml, other = tmp_path / "c.toml", tmp_path / "c.json"
    toml.write_text(f'model = "{stories}"\nmax-tokens = 5\ntemperature = 0.0\njson = true\n')
    other.write_text(json.dumps({"model": str(stories), "max_tokens": 5, "temperature": 0,
                                 "json": True}))
    for config in (toml, other):
        answer = slipstream.run("run", "--config", config, "-p", "Once").json
        assert answer["completion_tokens"] == 5
    answer = slipstream.run("run", "--config", toml, "-p", "Once", "-n", "3").json
    assert answer["completion_tokens"] == 3


def fill_pipe(slipstream, dummy_model):
    """A run that waits for its reader: its pipe is full and nobody reads."""
    process = slipstream.start("run", "-m", dummy_model, "--load-format", "dummy",
                               "--skip-tokenizer-init", "-p", "[1, 2, 3]", "--ignore-eos",
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    fcntl.fcntl(process.stdout, 1031, 4096)  # F_SETPIPE_SZ
    before, waiting = -1, 0
    deadline = time.monotonic() + 30
    while (waiting < 2000 or waiting > before) and time.monotonic() < deadline:
        time.sleep(0.1)  # far longer than a token takes: no growth means no room
        before = waiting
        waiting = int.from_bytes(fcntl.ioctl(process.stdout, 0x541B, bytes(4)), "little")  # FIONREAD
    assert process.poll() is None, process.stderr.read()
    return process


def test_ctrl_c_once_ends_the_answer_cleanly(slipstream, dummy_model):
    process = fill_pipe(slipstream, dummy_model)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert b"interrupted" in err and err.count(b"\n") == 1
    assert out.endswith(b"\n") and all(each.isdigit() for each in out.split())


def test_ctrl_c_twice_ends_at_once(slipstream, dummy_model):
    process = fill_pipe(slipstream, dummy_model)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)  # two pending signals would be one
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130
    process.stdout.close()
    process.stderr.close()


def test_a_reader_that_leaves_ends_the_answer_quietly(slipstream, dummy_model):
    process = fill_pipe(slipstream, dummy_model)
    process.stdout.read(100)
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_full_disk_on_stdout_is_an_error(slipstream, stories):
    with open("/dev/full", "wb") as full:
        process = slipstream.start("run", "-m", str(stories), "-p", "Once", "-n", "4", stdout=full)
        err = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 1
    assert err == "slipstream run: error: cannot write to stdout: No space left on device\n"


def test_default_model_answers_a_question(slipstream, default_model):
    result = slipstream.run("run", "-p", "What is the capital of France?", "-n", "32", "--json",
                            *GREEDY)
    assert result.code == 0, result.err
    assert "Paris" in result.json["text"]
    assert result.json["model"] == default_model
