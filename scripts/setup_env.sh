#!/usr/bin/env bash
# Creates .venv with bit_jax and what it needs, or updates it if that has
# changed. If it is up to date, nothing is done or printed.
#
#   scripts/setup_env.sh       # to use bit_jax
#   scripts/setup_env.sh dev   # with the tools of developers: requirements.txt
#
# Needs Python >= 3.11 with its venv module; PYTHON=/path/to/python names one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly venv=.venv
# What is installed, as `wanted` prints it. It is renamed from partial to
# installed only when pip is done, so an interrupted install never counts as
# ready.
readonly installed=$venv/requirements.installed
readonly partial=$venv/requirements.partial

die() {
  echo "error: $*" >&2
  exit 1
}

# Prints what decides whether an environment is up to date.
wanted() {
  sed -n '/^dependencies = \[/,/^\]/p; /^\[project.scripts\]/,/^$/p' \
    pyproject.toml
  if [[ $1 == dev ]]; then
    cat requirements.txt
  fi
}

is_new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null
}

# Prints the first Python that can make the environment.
find_python() {
  local without_venv='' candidate
  for candidate in ${PYTHON:+"$PYTHON"} \
    python3 python3.13 python3.12 python3.11 python3.14 python; do
    is_new_enough "$candidate" || continue
    if "$candidate" -c 'import ensurepip, venv' 2> /dev/null; then
      echo "$candidate"
      return
    fi
    without_venv=${without_venv:-$candidate}
  done
  if [[ -n $without_venv ]]; then
    die "$without_venv has no venv module" \
      "(Debian and Ubuntu: apt-get install python3-venv)"
  fi
  die "no Python >= 3.11 found; install one or set PYTHON=/path/to/python"
}

[[ $# -eq 0 || $* == dev ]] \
  || die "unexpected arguments '$*': expected none, or dev"
kind=${1:-use}
# Tools that are there are kept up to date, whoever asks.
if [[ -e $installed ]] && grep -q '^# To develop' "$installed"; then
  kind=dev
fi

if [[ -x $venv/bin/python ]] && wanted "$kind" | cmp -s - "$installed"; then
  exit
fi

# An environment made by hand is kept and completed; one left behind by an
# interrupted install is created anew.
if [[ -e $partial ]] || ! is_new_enough "$venv/bin/python" \
  || ! "$venv/bin/python" -c 'import pip' 2> /dev/null; then
  python=$(find_python)
  echo "setup: installing bit_jax into a new $venv" \
    "(1.4 GB, one to three minutes)" >&2
  "$python" -m venv --clear "$venv"
else
  echo "setup: installing bit_jax into $venv" >&2
fi
rm -f "$installed"
wanted "$kind" > "$partial"
needed=(--editable .)
[[ $kind != dev ]] || needed+=(--requirement requirements.txt)
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  "${needed[@]}" \
  || die "could not install bit_jax into $venv (pip says why above)"
mv "$partial" "$installed"
