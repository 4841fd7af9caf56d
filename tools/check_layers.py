#!/usr/bin/env python3
"""Fails on an include that goes up the layers or brings a library in by another door.

Owns the two tables below: which folder of src/ may include which, and which file each third-party
library enters by. Only include lines are read; CMake's link dependencies say the same once more.
"""

import re
import sys

from gatelib import CPP_SUFFIXES, finish, list_files, parse_root

LAYERS = {
    "base": 0, "core": 1, "metrics": 1, "quant": 2, "ops": 3, "loader": 4, "text": 4, "kv": 4,
    "comm": 4, "model": 5, "megakernel": 6, "sampling": 6, "engine": 7, "server": 8, "cli": 9,
    "bench": 9,
}
# Within one layer folders do not know each other, but for these: (from, to).
SAME_LAYER = {
    ("text", "loader"),  # a GGUF file carries its vocabulary
    ("cli", "bench"),    # `slipstream bench` is a subcommand
}
# The outermost folders see the engine as a caller does: through include/slipstream.
OUTER_FOLDERS = {"server", "cli", "bench"}
OUTER_MAY_INCLUDE = {"base", "text", "metrics"}
# Exception: commands that exercise a lower layer include it.
EXERCISING = re.compile(
    r"src/(cli/cmd_(check|inspect|quantize|tokenize|render|bench|perplexity)\w*"
    r"|bench/(decode|prefill|limits|roof|fidelity)\w*)\.(h|cc)\Z")
# The scheduler is pure: it decides on sequences and blocks, and never sees a tensor.
SCHEDULER = re.compile(r"src/engine/scheduler\w*\.(h|cc)\Z")
SCHEDULER_MAY_INCLUDE = {"engine", "kv", "base", "metrics", "slipstream"}
SCHEDULER_MAY_NOT_INCLUDE = {"kv/kv_cache.h"}

# (library, what its headers look like, files that may include them)
DOORS = [
    ("Boost.JSON", r"boost/json", r"src/(text/tokenizer_json|bench/stream_event)\.cc"),
    ("Boost.Asio, Beast", r"boost/(asio|beast|system|core)",
     r"src/(server/http_(server|connection|parser)"
     r"|bench/(http_call|load_client|load_connection|response_reader|scripted_server))\.(h|cc)"),
    ("Boost.Unordered", r"boost/unordered", r"src/base/flat_map\.h"),
    ("nlohmann", r"nlohmann/", r"src/base/json\.h|.*\.cc"),
    ("PCRE2", r"pcre2", r"src/text/pretokenize\.cc"),
    ("ICU", r"unicode/", r"src/text/normalize\.cc"),
    ("utf8proc", r"utf8proc", r"src/text/normalize\.cc"),
    ("xgrammar", r"xgrammar/", r"src/sampling/grammar\.cc"),
    ("SQLite", r"sqlite3", r"src/(bench/store|server/ledger)\.cc"),
    ("zlib", r"zlib", r"src/bench/dataset_file\.cc"),
    ("CLI11", r"CLI/", r"src/cli/main\.cc"),
    ("toml++", r"toml\+\+/|toml\.h", r"src/base/toml\.cc"),
    ("cuBLASLt", r"cublas", r"src/ops/cuda/cublaslt_dl\.cc"),
    ("NCCL", r"nccl", r"src/comm/nccl\.cc"),
    ("CUTLASS", r"(cutlass|cute)/", r"src/ops/cuda/(linear|moe)/.*\.cuh?"),
    ("FlashInfer", r"flashinfer/", r"src/ops/cuda/attention/.*\.cuh?"),
    ("CUDA", r"cuda|cub/|cooperative_groups|mma\.h|nvtx3/",
     r"src/(ops/cuda/.*|comm/(nccl|p2p)\.\w+|megakernel/.*\.cuh?|core/\w+_cuda\.cc)"),
    ("GoogleTest", r"g(test|mock)/", r"(src|tests)/.*_test\.cc|(src|tests)/.*test_util\w*\.(h|cc)"),
]
SYSTEM = re.compile(
    r"[a-z_]+\Z"  # the C++ standard library
    r"|(sys|linux|arpa|net|netinet)/[\w/]+\.h\Z"
    r"|(unistd|fcntl|dirent|dlfcn|sched|poll|pthread|termios|signal|time|errno|stdint|stddef|stdio"
    r"|stdlib|strings?|math|fenv|float|limits|locale|assert|cpuid|\w*intrin|arm_neon|arm_acle"
    r"|sanitizer/\w+)\.h\Z")
INCLUDE = re.compile(r'\s*#\s*include\s*(["<])([^">]+)[">]')


def judge_own(path, included):
    """None when the file may include this header of ours, else the reason why not."""
    if path.parts[0] == "include":
        return None if re.match(r"(slipstream|base)/", included) else (
            "the public headers include only slipstream/, base/ and the standard library")
    target = included.split("/")[0]
    if target not in LAYERS and target != "slipstream":
        return "an include is root-relative: \"folder/file.h\" with a folder of src/ or slipstream/"
    if path.parts[0] != "src":
        return None  # tests may look at every layer
    name, folder = path.as_posix(), path.parts[1]
    if folder not in LAYERS:
        return f"src/{folder} has no layer in tools/check_layers.py"
    if SCHEDULER.match(name) and not name.endswith("_test.cc"):
        if target not in SCHEDULER_MAY_INCLUDE or included in SCHEDULER_MAY_NOT_INCLUDE:
            return "the scheduler sees kv bookkeeping and sequences only"
    if target == folder:
        return None
    if target == "slipstream":  # the boundary: whoever implements it or stands above it
        return None if LAYERS[folder] >= LAYERS["sampling"] else (
            f"{folder} lies below the public boundary slipstream/")
    if LAYERS[target] > LAYERS[folder]:
        return (f"{folder} (layer {LAYERS[folder]}) includes {target} (layer {LAYERS[target]}): "
                "an include only goes down")
    if LAYERS[target] == LAYERS[folder] and (folder, target) not in SAME_LAYER:
        return f"{folder} and {target} share layer {LAYERS[folder]} and do not know each other"
    if (folder in OUTER_FOLDERS and target not in OUTER_MAY_INCLUDE | OUTER_FOLDERS
            and not EXERCISING.match(name) and not name.endswith("_test.cc")):
        return f"{folder} uses the engine through slipstream/ (plus base, text, metrics)"
    return None


def judge_foreign(path, included):
    for library, headers, door in DOORS:
        if re.match(headers, included):
            if re.fullmatch(door, path.as_posix()):
                return None
            return f"{library} enters only by {door}"
    if SYSTEM.match(included):
        return None
    return f"no door for <{included}>: name one in tools/check_layers.py or do without"


def main():
    root = parse_root()
    files = [path for path in list_files(root)
             if path.suffix in CPP_SUFFIXES and path.parts[0] in ("src", "include", "tests")]
    problems = []
    for path in files:
        text = (root / path).read_text(encoding="utf-8", errors="replace")
        for line_idx, line in enumerate(text.splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            own = match.group(1) == '"'
            reason = (judge_own if own else judge_foreign)(path, match.group(2))
            if reason:
                problems.append(f"{path}:{line_idx}: {match.group(2)}: {reason}")
    return finish("check_layers", problems, len(files))


if __name__ == "__main__":
    sys.exit(main())
