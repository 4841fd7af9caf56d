#!/usr/bin/env bash
# Slipstream against llama.cpp on this machine: tools/peers/llama_cpp.sh [--turns N] [--threads N]
#   [--model FILE.gguf] [--save bench/results/FILE.jsonl]
#
# Builds llama-bench from the source archive of llama-cpp-python (its vendor/llama.cpp), statically
# and outside the tree, then runs both programs in turns and prints medians and ratios. Its download
# and build happen once; the machine should be otherwise idle while the turns run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly version=0.3.36
readonly sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
readonly home=${SLIPSTREAM_HOME:-$HOME/.cache/slipstream}/peers/llama_cpp-$version
readonly archive=$home/llama_cpp_python-$version.tar.gz
readonly program=$home/build/bin/llama-bench

if [[ ! -x $program ]]; then
  tools/setup.sh build
  mkdir -p "$home"
  if ! sha256sum --check --status <<< "$sha256  $archive" 2> /dev/null; then
    echo "llama_cpp: downloading llama-cpp-python==$version (77 MB)" >&2
    python3 -m pip download --quiet --disable-pip-version-check --no-input --no-deps \
      --no-binary llama-cpp-python --dest "$home" "llama-cpp-python==$version"
    sha256sum --check --quiet <<< "$sha256  $archive"
  fi
  echo "llama_cpp: building llama-bench (several minutes, once)" >&2
  rm -rf "$home/source" && mkdir "$home/source"
  tar -xzf "$archive" -C "$home/source" --strip-components=1
  cmake -G Ninja -S "$home/source/vendor/llama.cpp" -B "$home/build" --log-level=ERROR \
    -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF \
    -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DBUILD_SHARED_LIBS=OFF \
    -DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache > /dev/null
  ninja -C "$home/build" --quiet llama-bench
fi

exec python3 tools/peers/compare.py --llama-bench "$program" --peer-version "$version" "$@"
