#!/usr/bin/env python3
"""A plain numpy decoder for Hugging Face folders of the llama, mistral, qwen2 and qwen3 families.

It owns nothing but the definition: every formula is written out, in float64, without a KV cache,
so that it can be read against the papers and judged against Hugging Face transformers. The tests'
golden values come from it (tools/make_golden.py). It shares no code with the engine.

  tools/reference_decoder.py FOLDER --ids 1,2,3 [--greedy N]
"""
import argparse
import json
import math
import pathlib
import struct
import sys

import numpy as np

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


# ---------------------------------------------------------------- files

def read_safetensors(path):
    """Name -> array of one .safetensors file; bfloat16 is widened to float32 exactly."""
    raw = pathlib.Path(path).read_bytes()
    (header_bytes,) = struct.unpack_from("<Q", raw, 0)
    header = json.loads(raw[8 : 8 + header_bytes])
    dtypes = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
        values = np.frombuffer(raw[begin:end], dtype=dtypes[entry["dtype"]])
        if entry["dtype"] == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def read_folder(folder):
    """(config, tensors) of a folder with one file or a sharded index."""
    folder = pathlib.Path(folder)
    config = json.loads((folder / "config.json").read_text())
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        shards = ["model.safetensors"]
    tensors = {}
    for shard in shards:
        tensors.update(read_safetensors(folder / shard))
    return config, tensors


# ---------------------------------------------------------------- rotary embedding

def rope_settings(config):
    """(theta, scaling dict) from either dialect of config.json."""
    scaling = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = scaling.get("rope_theta", config.get("rope_theta", 10000.0))
    scaling.setdefault("rope_type", scaling.get("type", "default"))
    return theta, scaling


def rope_inv_freq(config, head_dim):
    """(inv_freq [head_dim / 2], factor that multiplies cos and sin)."""
    theta, scaling = rope_settings(config)
    kind = scaling["rope_type"]
    inv_freq = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if kind == "default":
        return inv_freq, 1.0
    factor = scaling["factor"]
    if kind == "linear":
        return inv_freq / factor, 1.0
    original = scaling.get("original_max_position_embeddings") or config["max_position_embeddings"]
    if kind == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        wavelengths = original * inv_freq / (2 * math.pi)  # how many turns fit the old context
        keep = np.clip((wavelengths - low) / (high - low), 0.0, 1.0)
        return inv_freq * (keep + (1.0 - keep) / factor), 1.0
    if kind == "yarn":
        def dimension_that_turns(turns):
            return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low = dimension_that_turns(scaling.get("beta_fast") or 32.0)
        high = dimension_that_turns(scaling.get("beta_slow") or 1.0)
        if scaling.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        span = max(high - low, 0.001)
        interpolate = np.clip((np.arange(head_dim // 2) - low) / span, 0.0, 1.0)
        attention_factor = scaling.get("attention_factor")
        if attention_factor is None:
            attention_factor = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
        return inv_freq * (1.0 - interpolate + interpolate / factor), attention_factor
    raise ValueError(f"rope_type {kind!r} is not implemented")


def rotate(x, cos, sin):
    """Pairs are (i, i + head_dim / 2); x [tokens, heads, head_dim], cos and sin [tokens, head_dim / 2]."""
    first, second = np.split(x, 2, axis=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


# ---------------------------------------------------------------- the decoder

def rms_norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def silu(x):
    return x / (1.0 + np.exp(-x))


class Decoder:
    def __init__(self, folder):
        config, tensors = read_folder(folder)
        config = config.get("text_config", config)
        if config["model_type"] not in FAMILIES:
            raise ValueError(f"model_type {config['model_type']!r} is none of {FAMILIES}")
        self.config = config
        self.tensors = {name: value.astype(np.float64) for name, value in tensors.items()}
        self.num_heads = config["num_attention_heads"]
        self.num_kv_heads = config.get("num_key_value_heads") or self.num_heads
        self.head_dim = config.get("head_dim") or config["hidden_size"] // self.num_heads
        self.eps = config.get("rms_norm_eps", 1e-6)
        self.inv_freq, self.attention_factor = rope_inv_freq(config, self.head_dim)
        self.window = config.get("sliding_window")
        if config["model_type"].startswith("qwen") and not config.get("use_sliding_window"):
            self.window = None

    def linear(self, x, name):
        y = x @ self.tensors[name + ".weight"].T
        bias = self.tensors.get(name + ".bias")
        return y if bias is None else y + bias

    def attention(self, x, prefix):
        tokens = x.shape[0]
        q = self.linear(x, prefix + "q_proj").reshape(tokens, self.num_heads, self.head_dim)
        k = self.linear(x, prefix + "k_proj").reshape(tokens, self.num_kv_heads, self.head_dim)
        v = self.linear(x, prefix + "v_proj").reshape(tokens, self.num_kv_heads, self.head_dim)
        if prefix + "q_norm.weight" in self.tensors:  # qwen3: per head, before the rotation
            q = rms_norm(q, self.tensors[prefix + "q_norm.weight"], self.eps)
            k = rms_norm(k, self.tensors[prefix + "k_norm.weight"], self.eps)
        positions = np.arange(tokens)
        angles = positions[:, None] * self.inv_freq[None, :]
        cos, sin = (f(angles) * self.attention_factor for f in (np.cos, np.sin))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        group = self.num_heads // self.num_kv_heads
        k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
        scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(self.head_dim)
        distance = positions[:, None] - positions[None, :]
        visible = distance >= 0
        if self.window:
            visible &= distance < self.window
        scores = np.where(visible[None], scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        out = np.einsum("hqk,khd->qhd", weights, v).reshape(tokens, -1)
        return self.linear(out, prefix + "o_proj")

    def mlp(self, x, prefix):
        gated = silu(self.linear(x, prefix + "gate_proj")) * self.linear(x, prefix + "up_proj")
        return self.linear(gated, prefix + "down_proj")

    def logits(self, token_ids):
        """[tokens, vocab] in float64."""
        tensors = self.tensors
        x = tensors["model.embed_tokens.weight"][np.asarray(token_ids)]
        for layer in range(self.config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            normed = rms_norm(x, tensors[prefix + "input_layernorm.weight"], self.eps)
            x = x + self.attention(normed, prefix + "self_attn.")
            normed = rms_norm(x, tensors[prefix + "post_attention_layernorm.weight"], self.eps)
            x = x + self.mlp(normed, prefix + "mlp.")
        x = rms_norm(x, tensors["model.norm.weight"], self.eps)
        head = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
        return x @ head.T

    def greedy(self, token_ids, num_tokens):
        """(continuation, smallest gap between the two best logits on the way)."""
        ids, smallest_gap = list(token_ids), math.inf
        for _ in range(num_tokens):
            last = self.logits(ids)[-1]
            second, first = np.sort(last)[-2:]
            smallest_gap = min(smallest_gap, float(first - second))
            ids.append(int(np.argmax(last)))
        return ids[len(token_ids) :], smallest_gap


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--ids", default="1", help="comma-separated token ids (default: 1)")
    parser.add_argument("--greedy", type=int, metavar="N", help="print N greedy ids instead of logits")
    args = parser.parse_args()
    ids = [int(field) for field in args.ids.split(",")]
    decoder = Decoder(args.folder)
    if args.greedy:
        continuation, gap = decoder.greedy(ids, args.greedy)
        print(" ".join(map(str, continuation)))
        print(f"smallest top-2 gap {gap:.6f}", file=sys.stderr)
    else:
        print(json.dumps([round(float(value), 6) for value in decoder.logits(ids)[-1]]))


if __name__ == "__main__":
    main()
