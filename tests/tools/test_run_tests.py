"""tools/run_tests.py: no failure, crash or hang of a test program is counted as a pass."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "run_tests.py"

# Stands in for a GoogleTest program: writes the report it is asked for, then ends as told.
PROGRAM = """#!{python}
import json, os, sys, time
report = [a.split("json:")[1] for a in sys.argv if a.startswith("--gtest_output=json:")]
print("reason of the skip")
print("[  SKIPPED ] Suite.Skips (0 ms)")
results = {results}
if results is not None:
    json.dump({{"testsuites": [{{"testsuite": results}}]}}, open(report[0], "w"))
{ending}
"""
PASSES = {"classname": "Suite", "name": "Passes", "result": "COMPLETED"}
SKIPS = {"classname": "Suite", "name": "Skips", "result": "SKIPPED"}
FAILS = {"classname": "Suite", "name": "Fails", "result": "COMPLETED", "failures": [{}]}


def run(tmp_path, results, ending="", timeout_s=30, labels=()):
    program = tmp_path / "one_test"
    program.write_text(PROGRAM.format(python=sys.executable, results=results, ending=ending))
    program.chmod(0o755)
    ctest = tmp_path / "bin" / "ctest"
    ctest.parent.mkdir()
    listing = {"tests": [{"name": "one", "command": [str(program)],
                          "properties": [{"name": "LABELS", "value": list(labels)}]}]}
    ctest.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(listing)}\nEND\n")
    ctest.chmod(0o755)
    env = {**os.environ, "PATH": f"{ctest.parent}:{os.environ['PATH']}"}
    command = [sys.executable, str(SCRIPT), "--build", str(tmp_path), f"--timeout-s={timeout_s}"]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=60)


def test_passes_and_skips_are_counted_and_skips_say_why(tmp_path):
    result = run(tmp_path, [PASSES, PASSES, SKIPS])
    assert result.returncode == 0
    assert "2 passed, 0 failed, 1 skipped" in result.stdout
    assert "skipped Suite.Skips: reason of the skip" in result.stdout


@pytest.mark.parametrize(("results", "ending", "totals"), [
    ([PASSES, FAILS], "sys.exit(1)", "1 passed, 1 failed"),
    ([PASSES, FAILS], "", "1 passed, 1 failed"),
    ([PASSES], "sys.exit(66)", "1 passed, 1 failed"),  # a sanitizer's complaint at the end
    (None, "os.abort()", "0 passed, 1 failed"),
    (None, "time.sleep(60)", "0 passed, 1 failed"),
])
def test_a_failure_a_crash_and_a_hang_fail_the_run(tmp_path, results, ending, totals):
    result = run(tmp_path, results, ending, timeout_s=2)
    assert result.returncode == 1
    assert totals in result.stdout


def test_a_run_without_tests_fails(tmp_path):
    result = run(tmp_path, [PASSES], labels=["slow"])
    assert result.returncode == 1 and "no test ran" in result.stderr
