#!/usr/bin/env python3
"""Plants one bug at a time and expects a test to find it: `make mutants`.

Each tests/sim/mutants/NAME.patch is a bug of about one line in the scheduler, the block manager, the
prefix cache, or the code of stop strings and streams. A copy of the sources in build/mutants takes
one patch after another, only what it touches is built again, and the tests that should notice run
until one fails. Prints the survivors by name; exits 1 if fewer than --target per cent are caught.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATCHES = ROOT / "tests" / "sim" / "mutants"
COPIED = ("CMakeLists.txt", "cmake", "include", "share", "src", "tests/golden", "tests/fuzz", "web")
# Program and filter, fastest first.
STAGES = [
    ("kv", "-*Slow*"),
    ("text", "StopMatcher*:OutputStream*:DecodeStream*"),
    ("engine", "Scheduler*:StreamSim*:-*Slow*"),
    ("engine", "*Engine*:PrefixSharing*:-*Slow*:EngineOptions*"),
]


def copy_sources(tree):
    """Brings the copy up to date; a file that did not change keeps its time."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", *COPIED],
        check=True, capture_output=True, text=True).stdout.splitlines()
    wanted = {name for name in listed if (ROOT / name).is_file()}
    for folder in COPIED:
        for path in (tree / folder).rglob("*"):
            if path.is_file() and path.relative_to(tree).as_posix() not in wanted:
                path.unlink()
    for name in wanted:
        source, target = ROOT / name, tree / name
        if target.exists() and target.read_bytes() == source.read_bytes():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def configure(tree, build):
    if (build / "build.ninja").exists():
        return
    launcher = f"env;CCACHE_BASEDIR={tree};CCACHE_NOHASHDIR=1;ccache"
    command = ["cmake", "-S", tree, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
               "-DSLIPSTREAM_CLI=OFF"]
    if shutil.which("ccache"):
        command.append(f"-DCMAKE_CXX_COMPILER_LAUNCHER={launcher}")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def make(build, programs, jobs):
    targets = [f"{name}_test" for name in programs]
    return subprocess.run(["ninja", "-C", build, f"-j{jobs}", *targets], capture_output=True,
                          text=True)


def run_stage(build, stage, timeout_s):
    """What went wrong, or None when every test passed."""
    name, test_filter = stage
    program = build / "src" / name / f"{name}_test"
    try:
        done = subprocess.run(
            [program, "--gtest_brief=1", "--gtest_fail_fast", f"--gtest_filter={test_filter}"],
            capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return f"{name}_test: no end"
    if done.returncode == 0:
        return None
    text = done.stdout + done.stderr
    for line in text.splitlines():
        if "check failed" in line:
            return line.split("/")[-1][:90]
    failed = [line for line in text.splitlines() if line.startswith("[  FAILED  ]")]
    return failed[0].split()[3] if failed else f"{name}_test: exit {done.returncode}"


def judge(tree, build, patch, args):
    """(verdict, detail): caught, survived or broken."""
    touched = [line[6:].split("\t")[0] for line in patch.read_text().splitlines()
               if line.startswith("+++ b/")]
    whole = {name: (tree / name).read_bytes() for name in touched}
    applied = subprocess.run(["git", "apply", "--unsafe-paths", f"--directory={tree}", patch],
                             cwd="/", capture_output=True, text=True, check=False)
    if applied.returncode != 0:
        return "broken", "does not apply: " + applied.stderr.strip().splitlines()[0]
    try:
        for at, stage in enumerate(STAGES):
            if at == 0 or STAGES[at - 1][0] != stage[0]:
                built = make(build, [stage[0]], args.jobs)
                if built.returncode != 0:
                    errors = [line for line in built.stdout.splitlines() if "error:" in line]
                    return "broken", "does not build: " + (errors or ["?"])[0][-120:]
            detail = run_stage(build, stage, args.timeout_s)
            if detail is not None:
                return "caught", detail
        return "survived", ""
    finally:
        for name, content in whole.items():
            (tree / name).write_bytes(content)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="only patches with one of these in their name")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "mutants")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--timeout-s", type=int, default=120)
    parser.add_argument("--target", type=float, default=95.0, help="per cent to be caught")
    args = parser.parse_args()
    tree = args.work.resolve()
    build = tree / "build"  # as in the checkout, so that ccache knows what did not change
    copy_sources(tree)
    configure(tree, build)
    programs = sorted({name for name, _ in STAGES})
    built = make(build, programs, args.jobs)
    if built.returncode != 0:
        sys.exit(built.stdout[-2000:])
    for stage in STAGES:
        detail = run_stage(build, stage, args.timeout_s)
        if detail is not None:
            sys.exit(f"without a mutant: {detail} fails")
    results = {}
    for patch in sorted(PATCHES.glob("*.patch")):
        if args.names and not any(each in patch.stem for each in args.names):
            continue
        started = time.monotonic()
        results[patch.stem] = judge(tree, build, patch, args)
        verdict, detail = results[patch.stem]
        print(f"{verdict:9}{patch.stem:44}{time.monotonic() - started:6.1f} s  {detail}",
              flush=True)
    counts = {verdict: [name for name, result in results.items() if result[0] == verdict]
              for verdict in ("caught", "survived", "broken")}
    judged = len(counts["caught"]) + len(counts["survived"])
    share = 100.0 * len(counts["caught"]) / max(judged, 1)
    print(f"{len(counts['caught'])} of {judged} caught ({share:.1f} %)"
          + (f"; survivors: {', '.join(counts['survived'])}" if counts["survived"] else "")
          + (f"; broken: {', '.join(counts['broken'])}" if counts["broken"] else ""))
    sys.exit(0 if share >= args.target and not counts["broken"] else 1)


if __name__ == "__main__":
    main()
