#!/usr/bin/env python3
"""Fails on what a finished repository does not say: work left for later, one machine's paths."""

import re
import sys

from gatelib import CPP_SUFFIXES, finish, list_files, parse_root

# In two halves, so that this file passes its own gate.
LATER = ["TO" "DO", "FIX" "ME", "X" "XX"]
MACHINE_PATHS = ["/wo" "rk/", "/ro" "ot/", "/ho" "me/", "/Us" "ers/"]
WORD = re.compile(r"\b(" + "|".join(LATER) + r")\b")
PATH = re.compile(r"(?<![\w.}~-])(" + "|".join(MACHINE_PATHS) + ")")

SUFFIXES = CPP_SUFFIXES | {".py", ".sh", ".cmake", ".md", ".txt", ".json", ".yaml", ".toml", ""}
DATA_FOLDERS = (("tests", "fuzz", "corpus"), ("tests", "golden"))


def is_text(path):
    in_data = any(path.parts[:len(folder)] == folder for folder in DATA_FOLDERS)
    return path.suffix in SUFFIXES and not in_data


def main():
    root = parse_root()
    problems = []
    files = [path for path in list_files(root) if is_text(path)]
    for path in files:
        text = (root / path).read_text(encoding="utf-8", errors="replace")
        for line_idx, line in enumerate(text.splitlines(), 1):
            if match := WORD.search(line):
                problems.append(f"{path}:{line_idx}: '{match.group(1)}': do it now or leave it out")
            if match := PATH.search(line):
                problems.append(f"{path}:{line_idx}: '{match.group(1)}': a path of one machine")
    return finish("check_words", problems, len(files))


if __name__ == "__main__":
    sys.exit(main())
