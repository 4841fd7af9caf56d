#!/usr/bin/env python3
"""Makes the tiny random models of tests/golden/models and the values they must give.

Each folder holds config.json, model.safetensors and golden.json (a prompt, logits at a few
positions, the greedy continuation, and how they were made). Everything is seeded: running it again
writes the same bytes. Values come from tools/reference_decoder.py; Hugging Face transformers, where
torch is at hand, can judge them or replace them.

  tools/make_golden.py                            write all models and values
  tools/make_golden.py --only qwen3               one of them
  tools/make_golden.py --with transformers        take the values from transformers instead
  tools/make_golden.py --verify-with-transformers tests/golden/models
                                                  print the largest differences; record the version
"""
import argparse
import json
import pathlib
import struct
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from reference_decoder import Decoder  # noqa: E402

DEFAULT_FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "models"
GREEDY_TOKENS = 24
SMALLEST_GAP = 0.02  # between the two best logits: 16-bit activations must not change a token
DISTINCT_TOKENS = 8  # in the continuation: a model stuck on one token would prove little

COMMON = {
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": True,
}

# name -> (config.json, storage type, prompt length). Together they reach every branch of the
# families: both dialects of config.json, tied and untied heads, grouped and plain attention,
# head_dim that is not hidden / heads, every bias, every RoPE scaling, QK norm, a sliding window.
MODELS = {
    "llama": ({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": 96, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "float32",
    }, "F32", 24),
    "llama3": ({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 48,
        "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 128,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        },
        "eos_token_id": [2, 3], "dtype": "bfloat16",
    }, "BF16", 300),
    "llama_bias": ({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
        "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 1, "vocab_size": 80, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "rope_scaling": {"type": "linear", "factor": 2.0}, "attention_bias": True,
        "mlp_bias": True, "tie_word_embeddings": True, "torch_dtype": "float16",
    }, "F16", 20),
    "mistral": ({
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 20,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }, "BF16", 50),
    "qwen2": ({
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 128,
        "max_window_layers": 2, "use_sliding_window": False, "sliding_window": 16,
        "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }, "BF16", 40),
    "qwen3": ({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 96,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "rope_scaling": {
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32,
        },
        "attention_bias": False, "use_sliding_window": False, "sliding_window": None,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }, "BF16", 60),
    # Heads as wide as those of real models, which a GPU's kernels are made for.
    "wide_mistral": ({
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 112,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "sliding_window": 70, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }, "BF16", 200),
    "wide_qwen3": ({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 1, "head_dim": 128, "vocab_size": 112,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "attention_bias": False, "use_sliding_window": False, "sliding_window": None,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }, "BF16", 150),
}


# ---------------------------------------------------------------- random weights

def tensor_shapes(config):
    """Name -> shape, in the names of Hugging Face."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads", heads)
    head_dim = config.get("head_dim", hidden // heads)
    qwen2 = config["model_type"] == "qwen2"
    qkv_bias = qwen2 or config.get("attention_bias", False)
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}

    def linear(name, rows, cols, bias):
        shapes[name + ".weight"] = (rows, cols)
        if bias:
            shapes[name + ".bias"] = (rows,)

    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        shapes[prefix + "input_layernorm.weight"] = (hidden,)
        linear(attention + "q_proj", heads * head_dim, hidden, qkv_bias)
        linear(attention + "k_proj", kv_heads * head_dim, hidden, qkv_bias)
        linear(attention + "v_proj", kv_heads * head_dim, hidden, qkv_bias)
        linear(attention + "o_proj", hidden, heads * head_dim, qkv_bias and not qwen2)
        if config["model_type"] == "qwen3":
            shapes[attention + "q_norm.weight"] = (head_dim,)
            shapes[attention + "k_norm.weight"] = (head_dim,)
        shapes[prefix + "post_attention_layernorm.weight"] = (hidden,)
        mlp_bias = config.get("mlp_bias", False)
        linear(mlp + "gate_proj", inner, hidden, mlp_bias)
        linear(mlp + "up_proj", inner, hidden, mlp_bias)
        linear(mlp + "down_proj", hidden, inner, mlp_bias)
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def random_tensors(config, seed):
    """Scaled so that attention is peaked and no layer is negligible: an error must show."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in tensor_shapes(config).items():
        values = rng.standard_normal(shape)
        if name.endswith(".bias"):
            values *= 0.5
        elif len(shape) == 1:
            values = 1.0 + 0.2 * values
        elif "embed_tokens" not in name:
            gain = 2.0 if ("q_proj" in name or "k_proj" in name) else 1.3
            values *= gain / np.sqrt(shape[1])
        tensors[name] = values.astype(np.float32)
    return tensors


def to_bytes(values, dtype):
    if dtype == "F32":
        return values.astype("<f4").tobytes()
    if dtype == "F16":
        return values.astype("<f2").tobytes()
    bits = values.astype("<f4").view(np.uint32)  # BF16: round to nearest even
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def write_safetensors(path, tensors, dtype):
    header, payload = {"__metadata__": {"format": "pt"}}, b""
    for name, values in tensors.items():
        data = to_bytes(values, dtype)
        header[name] = {"dtype": dtype, "shape": list(values.shape),
                        "data_offsets": [len(payload), len(payload) + len(data)]}
        payload += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + payload)


# ---------------------------------------------------------------- transformers

class TransformersDecoder:
    """The same two calls as reference_decoder.Decoder, answered by Hugging Face, in float32."""

    def __init__(self, folder):
        import torch
        import transformers

        self.torch = torch
        version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
        dtype_name = "dtype" if version >= (4, 56) else "torch_dtype"
        with tempfile.TemporaryDirectory() as copy:
            copy = pathlib.Path(copy)
            config = json.loads((folder / "config.json").read_text())
            rope = config.get("rope_parameters")
            if rope and version < (5, 0):  # the older dialect, or the scaling would be ignored
                config["rope_theta"] = rope.pop("rope_theta")
                config["rope_scaling"] = config.pop("rope_parameters")
            (copy / "config.json").write_text(json.dumps(config))
            (copy / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
            self.model = transformers.AutoModelForCausalLM.from_pretrained(
                copy, attn_implementation="eager", **{dtype_name: torch.float32}).eval()
        self.name = f"transformers {transformers.__version__} (torch {torch.__version__}, float32)"

    def logits(self, token_ids):
        with self.torch.no_grad():
            ids = self.torch.tensor([list(token_ids)])
            return self.model(input_ids=ids, use_cache=False).logits[0].double().numpy()

    greedy = Decoder.greedy


class NumpyDecoder(Decoder):
    name = f"tools/reference_decoder.py (numpy {np.__version__}, float64)"


# ---------------------------------------------------------------- golden values

def golden_values(decoder, prompt):
    logits = decoder.logits(prompt)
    positions = sorted({0, 1, len(prompt) // 2, len(prompt) - 1})
    greedy, smallest_gap = decoder.greedy(prompt, GREEDY_TOKENS)
    return {
        "prompt": [int(token) for token in prompt],
        "logits": [{"position": position,
                    "values": [float(f"{value:.8g}") for value in logits[position]]}
                   for position in positions],
        "greedy": greedy,
        "smallest_top2_gap": round(smallest_gap, 4),
    }


def write_json(path, value):
    """Indented, but an array of numbers stays on one line."""
    lines = json.dumps(value, indent=1).split("\n")
    text, row = [], None
    for line in lines:
        if row is None and line.endswith("["):
            row = [line]
        elif row is not None:
            row.append(line)
            if line.strip() in ("]", "],"):
                text.append(row[0] + " ".join(item.strip() for item in row[1:-1]) + line.strip())
                row = None
            elif line.endswith(("{", "[")):
                text += row
                row = None
        else:
            text.append(line)
    path.write_text("\n".join(text) + "\n")


def make_model(folder, name, source):
    config, dtype, prompt_tokens = MODELS[name]
    config = {**COMMON, **config}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    base_seed = 1000 * (1 + sorted(MODELS).index(name))
    for seed in range(base_seed, base_seed + 1000):
        write_safetensors(folder / "model.safetensors", random_tensors(config, seed), dtype)
        prompt = np.random.default_rng(seed + 500000).integers(
            4, config["vocab_size"], size=prompt_tokens)
        greedy, gap = NumpyDecoder(folder).greedy(prompt, GREEDY_TOKENS)
        if gap >= SMALLEST_GAP and len(set(greedy)) >= DISTINCT_TOKENS:
            break
    else:
        raise SystemExit(f"{name}: no seed gives a clear and varied continuation")
    decoder = source(folder)
    golden = {"format": 1, "family": config["model_type"], **golden_values(decoder, prompt)}
    golden["provenance"] = {"values": decoder.name, "weights": "tools/make_golden.py", "seed": seed}
    write_json(folder / "golden.json", golden)
    print(f"{folder}: {dtype}, {(folder / 'model.safetensors').stat().st_size} bytes, seed {seed}, "
          f"smallest top-2 gap {golden['smallest_top2_gap']}")


def verify(folder):
    """Compares a folder's golden.json with transformers; records the version when they agree."""
    path = folder / "golden.json"
    golden = json.loads(path.read_text())
    judge = TransformersDecoder(folder)
    logits = judge.logits(golden["prompt"])
    worst = max(float(np.abs(logits[row["position"]] - np.array(row["values"])).max())
                for row in golden["logits"])
    greedy, _ = judge.greedy(golden["prompt"], len(golden["greedy"]))
    agrees = worst < 1e-3 and greedy == golden["greedy"]
    print(f"{folder.name}: largest |difference of logits| {worst:.2e}, greedy "
          f"{'equal' if greedy == golden['greedy'] else 'DIFFERS'}")
    if agrees:
        golden["provenance"]["verified_with"] = judge.name
        golden["provenance"]["verified_max_abs_difference"] = float(f"{worst:.2g}")
        write_json(path, golden)
    return agrees


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=DEFAULT_FOLDER)
    parser.add_argument("--only", choices=sorted(MODELS))
    parser.add_argument("--with", dest="source", choices=("numpy", "transformers"), default="numpy")
    parser.add_argument("--verify-with-transformers", type=pathlib.Path, metavar="FOLDER")
    args = parser.parse_args()
    if args.verify_with_transformers:
        folders = sorted(path.parent for path in args.verify_with_transformers.glob("*/golden.json"))
        if not folders:
            raise SystemExit(f"{args.verify_with_transformers}: no <model>/golden.json below it")
        results = [verify(folder) for folder in folders]
        sys.exit(0 if all(results) else 1)
    source = TransformersDecoder if args.source == "transformers" else NumpyDecoder
    for name in [args.only] if args.only else MODELS:
        make_model(args.out / name, name, source)


if __name__ == "__main__":
    main()
