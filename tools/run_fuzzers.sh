#!/usr/bin/env bash
# Runs every fuzz target of a build folder for some seconds: tools/run_fuzzers.sh BUILD [SECONDS]
# Seeds come from tests/fuzz/corpus/<name>/; findings and new inputs stay in BUILD/fuzz/<name>/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly build=${1:?usage: tools/run_fuzzers.sh BUILD [SECONDS]} seconds=${2:-20}
num_passed=0
for program in "$build"/tests/fuzz/*_fuzz; do
  if [[ ! -x $program ]]; then
    echo "fuzz: no fuzz target in $build/tests/fuzz" >&2
    exit 1
  fi
  name=$(basename "$program" _fuzz)
  seeds=tests/fuzz/corpus/$name
  if [[ -z $(ls "$seeds" 2> /dev/null) ]]; then
    echo "fuzz: $name has no seeds in $seeds" >&2
    exit 1
  fi
  out=$build/fuzz/$name
  mkdir -p "$out/found" "$out/artifacts"
  if ! "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
    -print_final_stats=1 -artifact_prefix="$out/artifacts/" "$out/found" "$seeds" \
    < /dev/null > "$out/log" 2>&1; then
    tail -n 60 "$out/log" >&2
    echo "fuzz: $name failed; the input is in $out/artifacts" >&2
    exit 1
  fi
  num_passed=$((num_passed + 1))
  echo "fuzz: $name ok, $(sed -n 's/^stat::number_of_executed_units: *//p' "$out/log") runs" \
    "in $seconds s, $(find "$seeds" -type f | wc -l) seeds"
done
echo "fuzz: $num_passed passed, 0 failed"
