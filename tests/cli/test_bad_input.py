"""Bad input: one clear line on stderr, the documented exit code, nothing on stdout."""

import json
import os
import shutil
import struct

import pytest


def test_unknown_flags_and_commands(slipstream, stories):
    slipstream.refuses(2, "run", "--no-such-flag", says="--no-such-flag")
    slipstream.refuses(2, "no-such-command", says="no-such-command")
    slipstream.refuses(2, "bench", says="--help")
    slipstream.refuses(2, "run", "-m", stories, "-p", "x", "-n", says="--max-tokens")
    slipstream.refuses(2, "run", "-m", stories, "one-too-many", "and-another", says="and-another")


@pytest.mark.parametrize("flags,says", [
    (("-n", "0"), "--max-tokens '0': must be from 1"),
    (("-n", "-5"), "--max-tokens '-5'"),
    (("-n", "many"), "--max-tokens 'many': not a whole number"),
    (("-n", "99999999999999999999"), "out of range"),
    (("--temperature", "-1"), "--temperature '-1'"),
    (("--temperature", "nan"), "not a finite number"),
    (("--top-p", "0"), "--top-p '0': must be above 0"),
    (("--top-p", "1.5"), "at most 1"),
    (("--repetition-penalty", "0"), "--repetition-penalty"),
    (("--presence-penalty", "3"), "from -2 to 2"),
    (("--logprobs", "21", "--json"), "--logprobs '21'"),
    (("--logprobs", "3"), "add --json"),
    (("-t", "9999"), "core"),
    (("--device", "tpu"), "available: auto, cpu"),
    (("--cpu-isa", "neon"), "available: auto, ref, avx2, avx512"),
    (("--executor", "megakernel"), "use --device cuda or --executor auto"),
    (("--quantization", "int3"), "available: auto, fp8, int4"),
    (("--quantization", "fp8", "--device", "cpu"), "on the CPU weights stay as the files store"),
    (("--quantization", "int4", "--device", "cpu"), "on the CPU weights stay as the files store"),
    (("--kv-cache-dtype", "q4"), "available: auto, f16, f32, bf16, fp8"),
    (("--kv-cache-dtype", "fp8", "--device", "cpu"), "on the CPU it must be auto, f16 or f32"),
    (("--dtype", "bfloat16"), "available: auto, float32"),
    (("--tensor-parallel-size", "2"), "--tensor-parallel-size '2'"),
    (("--gpu-memory-utilization", "1.5"), "--gpu-memory-utilization"),
    (("--max-model-len", "4096"), "128"),  # longer than the model's context
    (("--max-model-len", "0"), "--max-model-len '0'"),
    (("--log-level", "loud"), "available: debug"),
    (("--system", "Be kind"), "chat template"),
    (("-f", "x.txt"), "--prompt and --file"),
])
def test_bad_flag_values(slipstream, stories, flags, says):
    slipstream.refuses(2, "run", "-m", stories, "-p", "Once", *flags, says=says)


def test_a_missing_device_has_its_own_code(slipstream, stories):
    slipstream.refuses(4, "run", "-m", stories, "-p", "x", "--device", "cuda", says="CUDA")
    slipstream.refuses(4, "run", "-m", stories, "-p", "x", "--device", "cuda:1", says="CUDA")


def test_a_cache_that_does_not_fit_gives_both_numbers(slipstream, stories):
    slipstream.refuses(4, "run", "-m", stories, "-p", "x", "--max-model-len", "128",
                       "--kv-cache-memory-bytes", "1000", says="1000")


def test_a_bad_log_level_in_the_environment(slipstream, stories):
    slipstream.refuses(2, "run", "-m", stories, "-p", "x", env={"SLIPSTREAM_LOG": "loud"},
                       says="SLIPSTREAM_LOG")


def test_models_that_are_not_there(slipstream, tmp_path):
    slipstream.refuses(2, "run", "-m", "no-such-model", "-p", "x",
                       says=("no-such-model", "smollm2-135m"))
    slipstream.refuses(2, "run", "-m", "", "-p", "x", says="empty")
    empty_home = {"SLIPSTREAM_HOME": str(tmp_path)}
    slipstream.refuses(1, "run", "-p", "x", env=empty_home, says="slipstream pull smollm2-135m")
    slipstream.refuses(1, "run", "-m", "hf:a/b", "-p", "x", env=empty_home,
                       says="slipstream pull hf:a/b")
    slipstream.refuses(2, "run", "-m", "hf:../b", "-p", "x", env=empty_home, says="hf:ORG/REPO")
    slipstream.refuses(2, "run", "one", "-m", "two", "-p", "x", says="two models")


def test_empty_prompts(slipstream, chat_model, stories):
    slipstream.refuses(2, "run", "-m", chat_model, "-p", "", says="the prompt is empty")
    slipstream.refuses(2, "run", "-m", chat_model, says="the prompt is empty")  # stdin
    slipstream.refuses(2, "run", "-m", stories, "--skip-tokenizer-init", "-p", "[]", says="empty")


def test_a_prompt_of_a_million_bytes(slipstream, stories):
    text = "Once upon a time there was a girl. " * 28572
    slipstream.refuses(2, "run", "-m", stories, "-n", "1", stdin=text, says=("holds 128 tokens", "the prompt has"))


def test_prompts_that_are_not_utf8(slipstream, stories, tmp_path):
    slipstream.refuses(2, "run", "-m", stories, stdin=b"Once \xff upon", says="byte 5 of 11")
    file = tmp_path / "prompt"
    file.write_bytes(b"\xc3")
    slipstream.refuses(2, "run", "-m", stories, "-f", file, says="byte 0 of 1")
    slipstream.refuses(2, "perplexity", "-m", stories, "-f", file, says="byte 0 of 1")
    slipstream.refuses(2, "run", "-m", stories, "-f", tmp_path / "none", says="none")


def test_ids_that_are_not_ids(slipstream, stories):
    for prompt in ("Once", "[1.5]", "[-1]", "[512]", '["a"]', "{}"):
        slipstream.refuses(2, "run", "-m", stories, "--skip-tokenizer-init", "-p", prompt,
                           says="JSON array of token ids from 0 to 511")


@pytest.mark.parametrize("text,says", [
    ("max-tokenz = 5\n", "max-tokenz"),
    ("max-tokens = 0\n", "must be from 1"),
    ("max-tokens = [\n", "line"),
    ('{"max-tokens": }', "column 16"),
    ('{"max-tokens": {"a": 1}}', "max-tokens"),
    ("json = 3\n", "true or false"),
])
def test_config_files_that_are_wrong(slipstream, stories, tmp_path, text, says):
    config = tmp_path / "config"
    config.write_text(text)
    slipstream.refuses(2, "run", "-m", stories, "-p", "x", "--config", config,
                       says=("--config", says))


def test_a_config_file_that_is_not_there(slipstream, stories, tmp_path):
    slipstream.refuses(2, "run", "-m", stories, "-p", "x", "--config", tmp_path / "none",
                       says="none")


def damaged(data, change):
    """Copies of a model file with one thing wrong."""
    header = bytearray(data)
    if change == "empty":
        return b""
    if change == "magic":
        header[:4] = b"GGML"
    elif change == "version":
        header[4:8] = struct.pack("<I", 99)
    elif change == "num_tensors":
        header[8:16] = struct.pack("<Q", 1 << 62)
    elif change == "num_keys":
        header[16:24] = struct.pack("<Q", 1 << 62)
    elif change == "cut in the header":
        return data[:100]
    elif change == "cut in the tensors":
        return data[:-1000]
    elif change == "text":
        return b"This is not a model.\n" * 100
    return bytes(header)


@pytest.mark.parametrize("change", ["empty", "magic", "version", "num_tensors", "num_keys", "text",
                                    "cut in the header", "cut in the tensors"])
@pytest.mark.parametrize("command", ["run", "inspect"])
def test_damaged_gguf_files(slipstream, stories, tmp_path, command, change):
    file = tmp_path / "model.gguf"
    file.write_bytes(damaged(stories.read_bytes(), change))
    flags = ("-p", "x") if command == "run" else ()
    slipstream.refuses(3, command, "-m", file, *flags, says="model.gguf")


def broken_folder(source, folder, change):
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    if change == "no config":
        (folder / "config.json").unlink()
    elif change == "config is not JSON":
        (folder / "config.json").write_text("{")
    elif change == "no weights":
        (folder / "model.safetensors").unlink()
    elif change == "weights cut":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    elif change == "unknown family":
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "unknowable"}))
    elif change == "huge hidden size":
        (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 1 << 40}))
    elif change == "heads do not divide":
        (folder / "config.json").write_text(json.dumps({**config, "num_key_value_heads": 3}))
    elif change == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif change == "tokenizer is not JSON":
        (folder / "tokenizer.json").write_text("[1, 2")


@pytest.mark.parametrize("change,says", [
    ("no config", "config.json"), ("config is not JSON", "config.json"),
    ("no weights", "safetensors"), ("weights cut", "model.safetensors"),
    ("unknown family", "unknowable"), ("huge hidden size", "hidden_size"),
    ("heads do not divide", "heads"), ("no tokenizer", "tokenizer"),
    ("tokenizer is not JSON", "tokenizer.json"),
])
def test_broken_folders(slipstream, stories_hf, tmp_path, change, says):
    folder = tmp_path / "model"
    broken_folder(stories_hf, folder, change)
    slipstream.refuses(3, "run", "-m", folder, "-p", "x", says=says)


def test_files_that_cannot_be_a_model(slipstream, tmp_path):
    fifo = tmp_path / "fifo.gguf"
    os.mkfifo(fifo)
    slipstream.refuses(2, "inspect", fifo, says="fifo.gguf")
    slipstream.refuses(3, "inspect", tmp_path, says=str(tmp_path))
