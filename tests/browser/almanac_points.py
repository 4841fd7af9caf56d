"""Made-up points of the almanac, as `slipstream almanac export --jsonl` writes them.

Engines get slower as load grows and differ by fixed factors, so tests know who leads. Run it for a store
to look at:
    python3 tests/browser/almanac_points.py 5000 > points.jsonl
"""

import json
import random
import sys

ENGINES = {"slipstream": 1.2, "vllm": 1.0, "sglang": 0.95, "tensorrt-llm": 1.05}
MODELS = {"qwen3-8b": 1.0, "llama-3.1-8b": 1.02, "llama-3.3-70b": 0.12}
GPUS = {"NVIDIA H200": 1.3, "NVIDIA H100 80GB HBM3": 1.0}
SHAPES = [(128, 1024), (1024, 128), (512, 512), (2048, 256)]
LOADS = [("closed", 0, 1), ("constant", 2, 0), ("constant", 4, 0), ("constant", 8, 0),
         ("poisson", 12, 0), ("burst", 0, 0)]
PEAK_OUTPUT_TOK_S = 15_000.0
STATISTICS = {"mean": 1.1, "p50": 1.0, "p90": 1.4, "p95": 1.7, "p99": 2.4, "p999": 3.5, "max": 4.0}


def spread(latency, ms):
    return {f"{latency}_ms_{name}": round(ms * factor, 4) for name, factor in STATISTICS.items()}


def point(engine="slipstream", model="qwen3-8b", gpu="NVIDIA H200", weights="fp8", shape=(128, 1024),
          load=("closed", 0, 1), repeat=0, factor=1.0, noise=1.0, **changes):
    """One point. `factor` is the engine's speed, `noise` this run's luck."""
    arrival, rate, concurrency = load
    share = {"closed": 0.02, "burst": 1.0}.get(arrival, min(1.0, rate / 16))
    output_tok_s = PEAK_OUTPUT_TOK_S * factor * share * noise
    tokens_in, tokens_out = shape
    ttft_ms = (20 + tokens_in / 40 + 900 * share ** 3) / factor / noise
    tpot_ms = (4 + 20 * share) / factor / noise
    return {
        "point_id": "", "campaign": "made-up", "engine": engine, "engine_version": "1.0", "model": model,
        "weights": weights, "kv": "bf16", "gpu": gpu, "tokens_in": tokens_in, "tokens_out": tokens_out,
        "arrival": arrival, "request_rate": rate, "concurrency": concurrency, "repeat": repeat,
        "started_at": f"2026-11-27T0{repeat}:00:00Z", "requests": 256, "errors": 0,
        "requests_s": round(output_tok_s / tokens_out, 5), "output_tok_s": round(output_tok_s, 3),
        "total_tok_s": round(output_tok_s * (tokens_in + tokens_out) / tokens_out, 3),
        **spread("ttft", ttft_ms), **spread("tpot", tpot_ms), **spread("itl", tpot_ms),
        **spread("e2e", ttft_ms + tpot_ms * tokens_out), "client_lag_ms_p99": 0.2,
        "server_command": f"{engine} serve {model} --port 8000",
        "client_command": f"slipstream bench serve --url http://127.0.0.1:8000 --input-len {tokens_in}"
                          f" --output-len {tokens_out}",
        **changes,
    }


def sweep(engines=("slipstream", "vllm"), repeats=3, seed=1, **fixed):
    """Every load of some engines on one model, machine and shape."""
    chance = random.Random(seed)
    return [point(engine, load=load, repeat=repeat, factor=ENGINES[engine],
                  noise=chance.uniform(0.99, 1.01), **fixed)
            for engine in engines for load in LOADS for repeat in range(repeats)]


def many(count):
    """`count` points over all models, machines, shapes, precisions, engines, loads and campaigns."""
    chance = random.Random(2)
    points = []
    for campaign in range(1 + count // 1000):
        for model, size in MODELS.items():
            for gpu, speed in GPUS.items():
                for weights, gain in (("fp8", 1.3), ("bf16", 1.0)):
                    for shape in SHAPES:
                        for engine, factor in ENGINES.items():
                            points += [point(engine, model, gpu, weights, shape, load, repeat,
                                             factor * size * speed * gain, chance.uniform(0.98, 1.02),
                                             campaign=f"campaign-{campaign}")
                                       for load in LOADS for repeat in range(3)]
    return points[:count]


if __name__ == "__main__":
    for each in many(int(sys.argv[1])):
        print(json.dumps(each))
