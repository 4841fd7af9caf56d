#!/usr/bin/env bash
# Installs what a stage of the work needs and this machine lacks: tools/setup.sh build|test|ci
#
# Owns the system packages (tools/packages/) and the Python environment of the tests (.venv).
# Idempotent: with everything there it only looks, without network and without sudo.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly stage=${1:-build}
case $stage in
  build) sections='build' ;;
  test) sections='build test' ;;
  ci) sections='build test ci' ;;
  *)
    echo "setup: unknown stage '$stage'; stages: build, test, ci" >&2
    exit 2
    ;;
esac

say() { echo "setup: $*" >&2; }

# Prints the packages of the given sections of a list, one a line.
list_packages() { # file section...
  awk -v wanted=" ${*:2} " '
    /^[[:space:]]*(#|$)/ { next }
    /^\[/ { on = index(wanted, " " substr($0, 2, length($0) - 2) " "); next }
    on { print $1 }' "$1"
}

# Without a list for this system only the commands can be checked.
check_commands() { # system
  local missing='' command
  local commands='cmake ninja g++ ccache python3 git'
  [[ $stage == ci ]] && commands+=' clang++-19 clang-format-19 ld.lld-19'
  for command in $commands; do
    command -v "$command" > /dev/null || missing+=" $command"
  done
  if [[ -n $missing ]]; then
    say "no package list for $1, and these commands are missing:$missing;" \
      "install them (names as in tools/packages/debian-12.txt) and try again"
    exit 1
  fi
  say "no package list for $1: going on with what is installed"
}

install_packages() { # package...
  local as_root=()
  if [[ $(id -u) != 0 ]]; then
    if ! command -v sudo > /dev/null; then
      say "these packages are missing and neither root nor sudo is at hand: $*"
      exit 1
    fi
    as_root=(sudo)
  fi
  say "installing ${#} packages: $*"
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq
    -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
  "${apt[@]}" update < /dev/null >&2
  "${apt[@]}" install -y --no-install-recommends "$@" < /dev/null >&2
}

setup_packages() {
  local system list
  # os-release sets ID and VERSION_ID.
  system=$(. /etc/os-release 2> /dev/null && echo "${ID:-unknown}-${VERSION_ID:-unknown}") ||
    system=unknown
  list=tools/packages/$system.txt
  if [[ ! -f $list ]] || ! command -v dpkg-query > /dev/null; then
    check_commands "$system"
    return
  fi
  local wanted installed missing
  # shellcheck disable=SC2086 # sections are words
  mapfile -t wanted < <(list_packages "$list" $sections)
  installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${wanted[@]}" 2> /dev/null |
    awk '$1 == "installed" { print $2 }' | sort -u) || true
  mapfile -t missing < <(comm -23 <(printf '%s\n' "${wanted[@]}" | sort -u) <(echo "$installed"))
  if ((${#missing[@]} > 0)); then
    install_packages "${missing[@]}"
  fi
}

# The environment is rebuilt when its requirements change or its Python is gone.
setup_venv() {
  local stamp=.venv/requirements.done
  if cmp -s tools/requirements.txt "$stamp" && [[ -x .venv/bin/python ]]; then
    return
  fi
  say "creating .venv with $(grep -cv '^#' tools/requirements.txt) Python packages for the tests"
  rm -rf .venv
  python3 -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
    --only-binary=:all: -r tools/requirements.txt < /dev/null >&2
  cp tools/requirements.txt "$stamp"
}

setup_packages
if [[ $stage != build ]]; then
  setup_venv
fi
