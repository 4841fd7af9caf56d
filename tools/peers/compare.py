#!/usr/bin/env python3
"""Runs Slipstream and llama-bench in turns and prints medians and ratios.

Owns the turns, the medians and the saved records; tools/peers/llama_cpp.sh builds the peer. Turns
alternate, so that a machine that speeds up or slows down does so for both.
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INPUT_LEN, OUTPUT_LEN, PREFILL_LEN = 16, 128, 512


def run(command):
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                            check=False)
    if result.returncode != 0:
        tail = result.stderr.strip().splitlines()[-1:] or ["no message"]
        sys.exit(f"compare: '{shlex.join(command)}' ends with {result.returncode}: {tail[0]}")
    return result.stdout


def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def peer_command(args, kind):
    lengths = {"decode": ["-p", "0", "-n", str(OUTPUT_LEN), "-d", str(INPUT_LEN)],
               "prefill": ["-p", str(PREFILL_LEN), "-n", "0"]}[kind]
    return [str(args.llama_bench), "-m", str(args.model), "-t", str(args.threads), "-r", "1",
            *lengths, "-o", "jsonl"]


def own_command(args, kind):
    lengths = {"decode": ["--input-len", str(INPUT_LEN), "--output-len", str(OUTPUT_LEN)],
               "prefill": ["--input-len", str(PREFILL_LEN)]}[kind]
    return [str(args.slipstream), "bench", kind, "-m", str(args.model), "-t", str(args.threads),
            *lengths, "--repeats", "1", "--json"]


def take_turn(args, turn):
    """{(engine, kind): record}; each summary of ours carries its saved record."""
    records = {}
    for kind in ("decode", "prefill"):
        peer = json_lines(run(peer_command(args, kind)))[-1]
        records["llama.cpp", kind] = {**peer, "tok_s": peer["avg_ts"]}
        with tempfile.TemporaryDirectory() as folder:
            saved = Path(folder) / "record.jsonl"
            command = own_command(args, kind) + (["--save", str(saved)] if args.save else [])
            summary = json_lines(run(command))[-1]
            if args.save:
                summary["saved"] = json_lines(saved.read_text())[-1]
        records["slipstream", kind] = summary
        print(f"turn {turn} {kind:<7} llama.cpp {peer['avg_ts']:8.1f} tok/s   "
              f"slipstream {summary['tok_s']:8.1f} tok/s", file=sys.stderr, flush=True)
    return records


def cpu_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def peer_record(args, kind, turns, started_at):
    """llama.cpp's turns as one benchmark record, in the shape of Slipstream's own."""
    last = turns[-1]["llama.cpp", kind]
    values = [turn["llama.cpp", kind]["tok_s"] for turn in turns]
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    record = {
        "schema": 1, "kind": kind, "engine": "llama.cpp",
        "engine_version": f"llama-cpp-python {args.peer_version}", "git_commit": None,
        "host": {"cpu": cpu_name(), "cores": args.threads, "memory_bytes": memory_bytes,
                 "gpus": [], "driver": None, "cuda": None},
        "started_at": started_at,
        "model": {"name": args.model.stem, "family": last["model_type"],
                  "params": last["model_n_params"], "weights": last["model_type"].split()[-1],
                  "kv": last["type_k"], "bytes_per_token": last["model_size"]},
        "command": shlex.join(Path(each).name if each.startswith("/") else each
                              for each in peer_command(args, kind)),
        "config": {"threads": args.threads, "flash_attn": last["flash_attn"]},
        "repeats": len(turns), "tok_s": statistics.median(values), "turns_tok_s": values,
    }
    if kind == "decode":
        record |= {"input_len": INPUT_LEN, "output_len": OUTPUT_LEN,
                   "read_gb_s": record["tok_s"] * last["model_size"] / 1e9}
    else:
        record |= {"tokens": PREFILL_LEN}
    return record


def own_record(kind, turns):
    """The saved record of the median turn, with the speeds of all turns."""
    ordered = sorted((turn["slipstream", kind] for turn in turns), key=lambda each: each["tok_s"])
    values = [turn["slipstream", kind]["tok_s"] for turn in turns]
    return {**ordered[len(ordered) // 2]["saved"], "turns_tok_s": values}


def report(turns):
    print(f"medians of {len(turns)} turns")
    for kind in ("decode", "prefill"):
        peer = statistics.median(turn["llama.cpp", kind]["tok_s"] for turn in turns)
        own = statistics.median(turn["slipstream", kind]["tok_s"] for turn in turns)
        line = (f"{kind:<7}  llama.cpp {peer:8.1f} tok/s   slipstream {own:8.1f} tok/s   "
                f"ratio {own / peer:5.2f}")
        roofs = [turn["slipstream", kind].get("roof_fraction") for turn in turns]
        if kind == "decode" and None not in roofs:
            line += f"   roof {statistics.median(roofs):.0%}"
        print(line)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama-bench", type=Path, required=True)
    parser.add_argument("--peer-version", default="unknown")
    parser.add_argument("--slipstream", type=Path, default=ROOT / "build" / "slipstream")
    parser.add_argument("--model", type=Path, help="a .gguf file (default: the default model)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--save", type=Path, metavar="FILE", help="append the records to FILE")
    args = parser.parse_args()
    if args.turns < 1 or args.threads < 1:
        parser.error("--turns and --threads are at least 1")
    if args.model is None:
        fetch = ROOT / "share" / "slipstream" / "fetch.py"
        args.model = Path(run([sys.executable, str(fetch), "--quick"]).strip())
    if not args.slipstream.is_file():
        sys.exit(f"compare: {args.slipstream} is not there; run make")

    started_at = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    turns = [take_turn(args, turn + 1) for turn in range(args.turns)]
    report(turns)
    if args.save:
        args.save.parent.mkdir(parents=True, exist_ok=True)
        with open(args.save, "a", encoding="utf-8") as out:
            for kind in ("decode", "prefill"):
                for record in (peer_record(args, kind, turns, started_at), own_record(kind, turns)):
                    out.write(json.dumps(record) + "\n")
        print(f"saved to {args.save}")


if __name__ == "__main__":
    main()
