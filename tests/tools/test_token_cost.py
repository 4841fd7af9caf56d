"""tools/token_cost.py: the cost of an input and of an output token, recovered from records."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "token_cost.py"


def record(input_len, output_len, seconds, **more):
    return {"kind": "throughput", "summary": True, "host": {"gpus": ["NVIDIA H200"], "cpu": "x"},
            "model": {"name": "m", "kv_bytes_per_token": 1000}, "num_prompts": 10,
            "config": {"quantization": "fp8", "kv_cache_dtype": "bf16", "max_num_seqs": 512},
            "git_commit": "0123456789ab",
            "input_len": input_len, "output_len": output_len, "seconds": seconds, **more}


def run(tmp_path, *records):
    path = tmp_path / "records.jsonl"
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n"
                            for each in records))
    return subprocess.run([sys.executable, SCRIPT, path], capture_output=True, text=True)


def test_costs_that_made_the_times_are_found(tmp_path):
    shapes = [(128, 128), (512, 128), (128, 512)]
    result = run(tmp_path, *(record(i, o, 10 * (20e-6 * i + 25e-6 * o)) for i, o in shapes))
    assert result.returncode == 0, result.stderr
    assert "input 20.0 us, output 25.0 us a token, ratio 0.80; off by 0 %" in result.stdout


def test_the_share_of_k_and_v_is_their_reading(tmp_path):
    # 100 * (100 + 50) positions of 1,000 bytes at 1 GB/s are 15 ms of 60.
    result = run(tmp_path, record(100, 100, 0.6, serial_roof={"read_gb_s": 1.0}),
                 record(400, 100, 1.2))
    assert "100/100: 60.000 ms a request, K and V 25 %" in result.stdout


def test_what_cannot_be_fitted_is_said(tmp_path):
    result = run(tmp_path, record(128, 128, 1.0), record(256, 256, 2.0))
    assert "no fit: it takes shapes of two ratios" in result.stdout
    assert run(tmp_path, {"kind": "serve"}).stderr.startswith("no summary")
    assert "records.jsonl:1: not a record" in run(tmp_path, "{").stderr
