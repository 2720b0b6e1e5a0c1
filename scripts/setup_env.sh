#!/usr/bin/env bash
# Creates .venv from requirements.txt, or updates it if requirements.txt has
# changed. If it is up to date, nothing is done or printed.
#
# Needs Python >= 3.11 with its venv module; PYTHON=/path/to/python names one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly venv=.venv
# A copy of the requirements that are installed. It is renamed from partial to
# installed only when pip is done, so an interrupted install never counts as
# ready.
readonly installed=$venv/requirements.installed
readonly partial=$venv/requirements.partial

die() {
  echo "error: $*" >&2
  exit 1
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

if [[ -x $venv/bin/python ]] && cmp -s requirements.txt "$installed"; then
  exit
fi

# An environment made by hand is kept and completed; one left behind by an
# interrupted install is created anew.
if [[ -e $partial ]] || ! is_new_enough "$venv/bin/python" \
  || ! "$venv/bin/python" -c 'import pip' 2> /dev/null; then
  python=$(find_python)
  echo "setup: installing requirements.txt into a new $venv" \
    "(1.6 GB, one to three minutes)" >&2
  "$python" -m venv --clear "$venv"
else
  echo "setup: installing requirements.txt into $venv" >&2
fi
rm -f "$installed"
cp requirements.txt "$partial"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  --requirement "$partial" \
  || die "could not install requirements.txt into $venv (pip says why above)"
mv "$partial" "$installed"
