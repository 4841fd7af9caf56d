"""slipstream inspect, bench, check, pull, version: what they print and how they fail."""

import json

import pytest


def test_version_names_version_and_commit(slipstream):
    by_command, by_flag = slipstream.run("version"), slipstream.run("--version")
    assert by_command.code == by_flag.code == 0
    assert by_command.out == by_flag.out
    assert by_command.out.startswith("slipstream 0.")


def test_help_lists_commands_and_flags_with_their_defaults(slipstream):
    text = slipstream.run("--help").out
    for command in ("pull", "run", "chat", "inspect", "tokenize", "detokenize", "render",
                    "perplexity", "bench", "almanac", "check", "version"):
        assert f"\n  {command} " in text
    text = slipstream.run("run", "--help").out
    for flag in ("--model", "--threads", "--max-tokens", "--temperature", "--stop", "--ignore-eos",
                 "--logprobs", "--prompt-logprobs", "--system", "--raw", "--json", "--device",
                 "--load-format", "--skip-tokenizer-init", "--dtype", "--quantization",
                 "--kv-cache-dtype", "--deterministic", "--max-model-len", "--max-num-seqs",
                 "--max-num-batched-tokens", "--gpu-memory-utilization", "--tensor-parallel-size",
                 "--executor", "--enable-prefix-caching", "--no-enable-prefix-caching", "--seed",
                 "--config", "--log-level", "--log-format"):
        assert flag in text, flag
    assert "TOKENS" in text and "(default: " in text


def test_no_command_prints_help_and_is_bad_usage(slipstream):
    result = slipstream.run()
    assert result.code == 2 and result.out == "" and "pull" in result.err


def test_inspect_says_what_a_model_is_and_needs(slipstream, stories):
    report = slipstream.run("inspect", stories, "--json").json
    architecture = report["architecture"]
    assert architecture["family"] == "llama"
    assert architecture["vocab_size"] == report["tokenizer"]["vocab_size"] == 512
    assert report["tokenizer"]["bos_id"] == 1 and report["chat_template"] is None
    assert sum(each["bytes"] for each in report["tensors"]) == report["memory"]["weight_bytes"]
    assert report["memory"]["max_model_len"] == architecture["max_position_embeddings"] == 128
    shorter = slipstream.run("inspect", stories, "--json", "--max-model-len", "32").json["memory"]
    assert shorter["kv_bytes"] * 4 == report["memory"]["kv_bytes"]
    assert shorter["total_bytes"] == shorter["kv_bytes"] + shorter["weight_bytes"]
    words = slipstream.run("inspect", stories).out
    for tensor in report["tensors"]:
        assert tensor["name"] in words
    slipstream.refuses(2, "inspect", stories, "--max-model-len", "1000", says="128")


RECORD = {"schema", "kind", "engine", "engine_version", "git_commit", "host", "started_at", "model",
          "command", "config", "repeats"}


@pytest.mark.parametrize("kind,flags,fields", [
    ("decode", ("--input-len", "4", "--output-len", "8"),
     {"input_len", "output_len", "tok_s", "ms_per_token", "ttft_ms", "roof_tok_s", "roof_fraction",
      "read_gb_s"}),
    ("prefill", ("--input-len", "32"), {"tokens", "tok_s", "tflops", "gemm_fraction"}),
])
def test_bench_records_carry_their_fields(slipstream, stories, tmp_path, kind, flags, fields):
    saved = tmp_path / "records.jsonl"
    saved.write_text("{}\n")
    result = slipstream.run("bench", kind, "-m", stories, "--repeats", "2", "--json", "--save",
                            saved, *flags)
    assert result.code == 0, result.err
    records = result.lines
    assert len(records) == 3 and records[-1]["summary"] is True
    for record in records:
        assert RECORD | fields <= set(record)
        assert record["schema"] == 1 and record["kind"] == kind and record["repeats"] == 2
        assert {"cpu", "cores_used", "memory_bytes", "gpus", "driver", "cuda"} <= set(record["host"])
        assert {"name", "family", "params", "weights", "kv", "bytes_per_token"} <= set(
            record["model"])
        assert record["tok_s"] > 0 and "bench " + kind in record["command"]
    assert saved.read_text() == "{}\n" + result.out  # appended


def test_bench_throughput_records_rates_and_host_time(slipstream, stories):
    record = slipstream.run("bench", "throughput", "-m", stories, "--num-prompts", "6",
                            "--input-len", "8", "--output-len", "20", "--repeats", "1",
                            "--json").lines[-1]
    assert record["kind"] == "throughput" and record["summary"] is True
    assert record["output_tok_s"] == pytest.approx(6 * 20 / record["seconds"])
    assert 0 < record["cpu_us_per_step"]["p50"] <= record["cpu_us_per_step"]["p99"]
    assert "gpu_busy_fraction" not in record
    roof = record["serial_roof"]
    assert roof["share"] == pytest.approx(record["output_tok_s"] / roof["output_tok_s"])
    assert 0 < roof["share"] < 1 and all(rate > 0 for rate in roof["gemm_tflops"].values())
    assert record["model"]["bytes_per_token"] > 100_000


def test_bench_throughput_profile_says_what_each_op_takes(slipstream, stories, tmp_path):
    flags = ("--num-prompts", "4", "--max-num-seqs", "4", "--input-len", "8", "--output-len", "40")
    trace = tmp_path / "trace.json"
    result = slipstream.run("bench", "throughput", "-m", stories, "--profile", "10",
                            "--profile-trace", trace, *flags)
    assert result.code == 0, result.err
    head, columns, *rows = result.out.splitlines()
    assert head.startswith("10 steps of 4.0 tokens, ") and "F32 products" in head
    assert columns.split()[:3] == ["op", "calls", "us/step"]
    layers = 5
    calls = {row[:24].strip(): float(row[24:].split()[0]) for row in rows}
    assert calls["attention"] == calls["silu_mul"] == layers
    assert calls["add_rms_norm"] == 2 * layers and calls["linear 512x64"] == 1
    shares = [float(row[24:].split()[2]) for row in rows]
    assert shares == sorted(shares, reverse=True) and 50 < sum(shares) <= 100.5
    result = slipstream.run("bench", "throughput", "-m", stories, "--profile", "100", *flags)
    assert result.code == 2 and "--profile" in result.err and "longer answers" in result.err

    ranges = [event for event in json.loads(trace.read_text()) if event["ph"] == "X"]
    steps = [event for event in ranges if event["name"] == "step"]
    assert len(steps) == 10 and all(step["args"]["tokens"] == 4 for step in steps)
    assert sum(event["name"] == "attention" for event in ranges) == 10 * layers
    slipstream.refuses(2, "bench", "throughput", "-m", stories, "--profile-trace", trace,
                       says="--profile, which is missing")
    slipstream.refuses(1, "bench", "throughput", "-m", stories, "--profile", "10",
                       "--profile-trace", tmp_path / "no" / "where", says="trace file")


def test_bench_decode_divides_by_gaps_and_by_the_roof(slipstream, stories):
    record = slipstream.run("bench", "decode", "-m", stories, "--output-len", "32", "--repeats", "1",
                            "--json").lines[0]
    assert record["roof_fraction"] == pytest.approx(record["tok_s"] / record["roof_tok_s"])
    assert record["roof_tok_s"] == pytest.approx(
        record["read_gb_s"] * 1e9 / record["model"]["bytes_per_token"], rel=1e-3)
    ms = record["ms_per_token"]
    assert ms["p50"] <= ms["p90"] <= ms["p99"] <= ms["max"]


def test_dummy_weights_say_so_in_the_record(slipstream, dummy_model):
    result = slipstream.run("bench", "decode", "-m", dummy_model, "--load-format", "dummy",
                            "--repeats", "1", "--output-len", "4", "--json")
    assert result.code == 0, result.err
    assert "dummy" in result.lines[-1]["model"]["weights"]


def test_bench_limits_measures_what_the_machine_can_do(slipstream, tmp_path):
    limits = ("bench", "limits", "--device", "cpu", "--bytes", str(1 << 24))
    saved = tmp_path / "limits.jsonl"
    result = slipstream.run(*limits, "--repeats", "2", "--json", "--save", saved)
    assert result.code == 0, result.err
    assert result.out == saved.read_text()
    first, second, summary = result.lines
    assert (first["repeat"], second["repeat"]) == (0, 1) and summary["summary"]
    for record in result.lines:
        assert (record["schema"], record["kind"], record["device"]) == (1, "limits", "cpu")
        assert record["host"]["gpus"] == [] and record["config"]["bytes"] == 1 << 24
        # From a slow machine that does other work to more than any has.
        for key, most in (("read_gb_s", 1e4), ("write_gb_s", 1e4), ("launch_us", 1e6)):
            assert 0.001 < record[key] < most, (key, record[key])
        assert set(record["gemm_tflops"]) == {"F16", "Q8_0", "Q4_1"}
        assert all(1e-4 < tflops < 1e3 for tflops in record["gemm_tflops"].values())
        # What one CPU has none of.
        assert [record[key] for key in ("barrier_us", "graph_node_us", "all_reduce_us")] == [None] * 3
    for key in ("read_gb_s", "write_gb_s", "launch_us"):
        assert summary[key] == pytest.approx((first[key] + second[key]) / 2)


def test_bench_limits_prints_a_table(slipstream):
    result = slipstream.run("bench", "limits", "--device", "cpu", "--bytes", str(1 << 24),
                            "--repeats", "1", "--threads", "1")
    assert result.code == 0, result.err
    run, head, *rows = result.out.splitlines()
    assert run.startswith("run 1: read ") and head.startswith("median of 1: ")
    names = ["read", "write", "F16 products", "Q4_1 products", "Q8_0 products",
             "hand-over to threads"]
    assert [row[:24].strip() for row in rows] == names
    assert [row.split()[-1] for row in rows] == ["GB/s"] * 2 + ["TFLOP/s"] * 3 + ["us"]


@pytest.mark.parametrize("code, args, says", (
    (1, ("--save", "no/such/folder/file"), "--save"),
    (2, ("--device", "tpu"), "available: auto, cpu, cuda"),
    (2, ("--bytes", "3"), "must be from 1048576"),
    (2, ("--bytes", "all"), "--bytes"),
    (2, ("--repeats", "0"), "--repeats"),
    (2, ("a-model",), "a-model"),
    (2, ("--cpu-isa", "sse9", "--device", "cpu"), "sse9"),
    (4, ("--bytes", str(1 << 38), "--device", "cpu"), "are free"),
))
def test_bench_limits_refuses_in_one_line(slipstream, code, args, says):
    slipstream.refuses(code, "bench", "limits", *args, says=says)


def test_check_commands_pass_here(slipstream):
    for command in (("check", "ops", "--no-timing", "--op", "rms_norm"), ("check", "golden"),
                    ("check", "sim", "--steps", "2000")):
        result = slipstream.run(*command, "--json")
        assert result.code == 0, (command, result.out, result.err)
        assert result.lines and all(each["passed"] for each in result.lines)
    slipstream.refuses(2, "check", "ops", "--op", "none", says="rms_norm")
    slipstream.refuses(2, "check", "golden", "none", says="qwen3")


def test_check_fidelity_finds_the_fast_kernels_close(slipstream, stories, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time, there was a little girl named Lily. " * 20)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Once upon a time\nLily and Tom\n")
    result = slipstream.run("check", "fidelity", "-m", stories, "-f", text, "--window", "64",
                            "--max-windows", "2", "--prompts", prompts, "--json")
    assert result.code == 0, result.err
    windows, greedy = result.json["windows"], result.json["greedy"]
    assert windows["tokens"] == 2 * 63
    assert abs(windows["perplexity_error"]) < 5e-3
    assert windows["mean_kl"] < 5e-4 and windows["mean_abs_logprob_error"] < 0.02
    assert greedy["equal"] == greedy["prompts"] == 2
    slipstream.refuses(2, "check", "fidelity", "-m", stories, says="nothing to compare")


def test_pull_forwards_to_the_helper(slipstream, tmp_path):
    home = {"SLIPSTREAM_HOME": str(tmp_path / "home")}
    listed = slipstream.run("pull", "--list", env=home)
    assert listed.code == 0 and "smollm2-135m (default)" in listed.out
    slipstream.refuses(2, "pull", "no-such-model", env=home, says="smollm2-135m")
    slipstream.refuses(2, "pull", "--", "-x", env=home, says="'-x'")
    slipstream.refuses(1, "pull", "smollm2-135m", "--wheel", "/dev/null", env={
        "SLIPSTREAM_HOME": "/proc/nowhere"}, says="/proc/nowhere")
    slipstream.refuses(1, "pull", "hf:a/b", "--hub", "http://127.0.0.1:9", env=home,
                       says="cannot be reached")
    slipstream.refuses(1, "pull", env={"PATH": str(tmp_path)}, says="python3 is not installed")


def test_json_output_is_one_line(slipstream, stories):
    out = slipstream.run("inspect", stories, "--json").out
    assert out.count("\n") == 1 and json.loads(out)
