#!/usr/bin/env python3
"""What a token of a prompt costs against a generated one, from records of `bench throughput`.

A request of a workload takes seconds / num_prompts of the device. Over workloads of several shapes
of one build, model and configuration that time is fitted as a * input_len + b * output_len, by least
squares of relative errors. a / b is 1 where an input token costs what an output token costs. The
share of K and V is the time their reading takes, at the record's read rate, of a request's time.

  tools/token_cost.py bench/results/*.jsonl
"""
import argparse
import json
import pathlib
import sys

import numpy as np


def summaries(paths):
    for path in paths:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise SystemExit(f"{path}:{number}: not a record: {error}") from None
            if record.get("kind") == "throughput" and record.get("summary"):
                yield record


def group_of(record):
    config = record["config"]
    hardware = ", ".join(record["host"]["gpus"]) or record["host"]["cpu"]
    return (record["model"]["name"], config["quantization"], config["kv_cache_dtype"],
            f"{config['max_num_seqs']} at once", hardware, record["git_commit"])


def fit(records):
    """(a, b) in seconds a token, and the largest relative error of a workload."""
    shapes = np.array([[r["input_len"], r["output_len"]] for r in records], dtype=float)
    seconds = np.array([r["seconds"] / r["num_prompts"] for r in records])
    # Divided by its time, every workload counts alike, however long it is.
    cost, _, rank, _ = np.linalg.lstsq(shapes / seconds[:, None], np.ones(len(records)), rcond=None)
    if rank < 2:
        return None
    return *cost, float(np.max(np.abs(shapes @ cost / seconds - 1.0)))


def kv_share(record):
    """The share of a request's time in which its K and V are read; None without a read rate."""
    kv_bytes = record["model"].get("kv_bytes_per_token")
    read_gb_s = record.get("serial_roof", {}).get("read_gb_s")
    if not kv_bytes or not read_gb_s:
        return None
    positions = record["output_len"] * (record["input_len"] + record["output_len"] / 2)
    return positions * kv_bytes / read_gb_s * 1e-9 / (record["seconds"] / record["num_prompts"])


def report(records):
    lines = []
    for record in sorted(records, key=lambda r: (r["input_len"], r["output_len"])):
        share = kv_share(record)
        known = "" if share is None else f", K and V {100 * share:.0f} %"
        lines.append(f"  {record['input_len']}/{record['output_len']}: "
                     f"{1e3 * record['seconds'] / record['num_prompts']:.3f} ms a request{known}")
    fitted = fit(records)
    if fitted is None:
        return lines + ["  no fit: it takes shapes of two ratios of input to output"]
    a, b, worst = fitted
    ratio = f"{a / b:.2f}" if b > 0 else "none: output costs nothing"
    return lines + [f"  input {1e6 * a:.1f} us, output {1e6 * b:.1f} us a token, ratio {ratio}; "
                    f"off by {100 * worst:.0f} % at most"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", nargs="+", type=pathlib.Path, help="files of JSON lines")
    groups = {}
    for record in summaries(parser.parse_args().records):
        groups.setdefault(group_of(record), []).append(record)
    if not groups:
        raise SystemExit("no summary of `bench throughput` in these files")
    for group, records in groups.items():
        print(", ".join(group))
        print("\n".join(report(records)))


if __name__ == "__main__":
    sys.exit(main())
