"""What the gates (tools/check_*.py) share: which files they judge and how they report."""

import argparse
import subprocess
import sys
from pathlib import Path

CPP_SUFFIXES = {".h", ".cc", ".inl", ".cu", ".cuh"}


def parse_root():
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent,
                        help="the tree to check (default: this one)")
    return parser.parse_args().root.resolve()


def list_files(root):
    """Paths relative to `root`: what git tracks or would track; every file outside a checkout."""
    git = subprocess.run(["git", "-C", str(root), "ls-files", "-z", "--cached", "--others",
                          "--exclude-standard"], capture_output=True, text=True, check=False)
    if git.returncode == 0 and (root / ".git").exists():
        names = [name for name in git.stdout.split("\0") if name]
    else:
        names = [str(path.relative_to(root)) for path in root.rglob("*")]
    return sorted(Path(name) for name in set(names) if (root / name).is_file())


def finish(gate, problems, num_files):
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{gate}: {num_files} files, {len(problems)} problems")
    return 1 if problems else 0
