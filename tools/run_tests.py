#!/usr/bin/env python3
"""Runs the tests of one build folder and prints totals: what `make test` and the gates call.

Owns running, counting and reporting; what is a test is CMake's and pytest's say. GoogleTest
programs are taken from ctest, so `ctest` itself works too. Suites whose name ends in `Slow`, ctest
programs labelled `slow` and pytest tests marked `slow` run only with --slow.
"""

import argparse
import concurrent.futures
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GTEST_SKIP = re.compile(r"^\[  SKIPPED \] (\S+) \(\d+ ms\)$", re.MULTILINE)


@dataclass
class Outcome:
    """One program's counts; `output` is shown when something failed."""

    name: str
    num_passed: int = 0
    num_failed: int = 0
    skipped: list = field(default_factory=list)
    output: str = ""
    seconds: float = 0.0


def list_programs(build, with_slow, only):
    listing = subprocess.run(
        ["ctest", "--test-dir", build, "--show-only=json-v1"],
        check=True, capture_output=True, text=True).stdout
    programs = []
    for test in json.loads(listing)["tests"]:
        properties = {each["name"]: each["value"] for each in test.get("properties", [])}
        if "slow" in properties.get("LABELS", []) and not with_slow:
            continue
        if only and test["name"] not in only:
            continue
        if "command" not in test:
            raise SystemExit(f"run_tests: {test['name']} is not built in {build}")
        programs.append((test["name"], test["command"], properties.get("WORKING_DIRECTORY", build)))
    return programs


def run_command(name, command, cwd, timeout_s, env=None):
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, env=env)
    try:
        text, _ = process.communicate(timeout=timeout_s)
        code = process.returncode
    except subprocess.TimeoutExpired:
        process.kill()
        text, _ = process.communicate()
        code, text = -1, text + f"\n{name}: killed after {timeout_s} s\n".encode()
    outcome = Outcome(name, output=text.decode("utf-8", "replace"))
    outcome.seconds = time.monotonic() - started
    return code, outcome


def run_program(program, with_slow, timeout_s):
    name, command, cwd = program
    is_gtest = command[0].endswith("_test")
    if not is_gtest:
        code, outcome = run_command(name, command, cwd, timeout_s)
        outcome.num_passed, outcome.num_failed = (1, 0) if code == 0 else (0, 1)
        return outcome
    command = [each for each in command if not each.startswith("--gtest_")]
    if not with_slow:
        command.append("--gtest_filter=-*Slow.*")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command.append(f"--gtest_output=json:{report}")
        code, outcome = run_command(name, command, cwd, timeout_s)
        try:
            suites = json.loads(report.read_text())["testsuites"]
        except (OSError, ValueError):
            suites = None
    if suites is None:
        outcome.num_failed = 1  # it died: how many passed before is not known
        return outcome
    for test in (test for suite in suites for test in suite["testsuite"]):
        if test["result"] == "SKIPPED":
            outcome.skipped.append(f"{test['classname']}.{test['name']}")
        elif test.get("failures"):
            outcome.num_failed += 1
        elif test["result"] == "COMPLETED":
            outcome.num_passed += 1
    if code != 0 and outcome.num_failed == 0:
        outcome.num_failed = 1  # a sanitizer's or a destructor's complaint after the last test
    return outcome


def skip_reasons(outcome):
    """gtest prints the reason between `[ RUN ]` and `[  SKIPPED ]`."""
    lines = outcome.output.splitlines()
    for idx, line in enumerate(lines):
        match = GTEST_SKIP.match(line)
        if match:
            yield match.group(1), lines[idx - 1].strip() if idx else ""


def run_pytest(paths, with_slow, timeout_s, build):
    env = dict(os.environ, PYTHONDONTWRITEBYTECODE="1",
               SLIPSTREAM_BUILD_DIR=str(Path(build).resolve()))
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs",
                   f"--junitxml={report}", *paths]
        if not with_slow:
            command += ["-m", "not slow"]
        code, outcome = run_command("pytest", command, ROOT, timeout_s, env)
        try:
            suite = ElementTree.parse(report).getroot().find("testsuite")
            counts = {key: int(suite.get(key)) for key in ("tests", "failures", "errors")}
        except (OSError, ElementTree.ParseError):
            outcome.num_failed = 1
            return outcome
        outcome.num_failed = counts["failures"] + counts["errors"]
        outcome.skipped = [f"{case.get('classname')}.{case.get('name')}: {skip.get('message')}"
                           for case in suite.iter("testcase") for skip in case.iter("skipped")]
        outcome.num_passed = counts["tests"] - outcome.num_failed - len(outcome.skipped)
    if code not in (0, 5) and outcome.num_failed == 0:
        outcome.num_failed = 1
    return outcome


def report(outcome):
    status = "FAILED" if outcome.num_failed else "ok"
    if outcome.num_failed:
        print(outcome.output.rstrip())
    print(f"{outcome.name:<12} {outcome.num_passed:5} passed {outcome.num_failed:3} failed "
          f"{len(outcome.skipped):3} skipped {outcome.seconds:6.1f} s  {status}", flush=True)
    reasons = dict(skip_reasons(outcome))
    for name in outcome.skipped:
        print(f"    skipped {name}" + (f": {reasons[name]}" if reasons.get(name) else ""))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build", help="build folder (default: build)")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="only these tests")
    parser.add_argument("--pytest", nargs="*", default=[], metavar="PATH", help="pytest paths, too")
    parser.add_argument("--slow", action="store_true", help="run the slow suites, too")
    parser.add_argument("--timeout-s", type=int, default=600, help="per program (default: 600)")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 4))
    args = parser.parse_args()

    started = time.monotonic()
    programs = list_programs(args.build, args.slow, args.only)
    missing = set(args.only) - {name for name, _, _ in programs}
    if missing:
        raise SystemExit(f"run_tests: no such tests in {args.build}: {' '.join(sorted(missing))}")
    outcomes = []
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        runs = [pool.submit(run_program, each, args.slow, args.timeout_s) for each in programs]
        if args.pytest:
            runs.append(pool.submit(run_pytest, args.pytest, args.slow, args.timeout_s, args.build))
        for run in runs:
            outcomes.append(run.result())
            report(outcomes[-1])
    num_passed = sum(each.num_passed for each in outcomes)
    num_failed = sum(each.num_failed for each in outcomes)
    num_skipped = sum(len(each.skipped) for each in outcomes)
    print(f"{args.build}: {num_passed} passed, {num_failed} failed, {num_skipped} skipped "
          f"in {time.monotonic() - started:.1f} s")
    if num_passed + num_failed == 0:
        print(f"run_tests: no test ran in {args.build}", file=sys.stderr)
        return 1
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
