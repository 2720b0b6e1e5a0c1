#!/usr/bin/env bash
# Checks format, lint, types and shell scripts. Runs all checks, then names
# those that failed and exits with 1. `.venv/bin/ruff format .` repairs the
# format.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup_env.sh dev
# By default pyright asks PyPI for a newer release on every run.
export PYRIGHT_PYTHON_IGNORE_WARNINGS=1
shell_files=(scripts/*.sh scripts/launch/*.sh .ci/run)
failed=''

check() {
  echo "check: $*"
  "$@" || failed+="  $*"$'\n'
}

check .venv/bin/python -m ruff format --check .
check .venv/bin/python -m ruff check .
check .venv/bin/python -m pyright
check .venv/bin/shellcheck "${shell_files[@]}"

if [[ -n $failed ]]; then
  printf 'failed:\n%s' "$failed" >&2
  exit 1
fi
