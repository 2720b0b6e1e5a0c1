#!/usr/bin/env bash
# Runs the fast tests on the CPU. Arguments are passed to pytest; paths are
# relative to the repository root, and a second -m replaces the first:
#
#   scripts/test.sh
#   scripts/test.sh tests/models/resnet_test.py -k gradients
#   scripts/test.sh -m slow
#   JAX_PLATFORMS=cuda scripts/test.sh -m gpu
#
# Two processes share the test files; `-n 0` runs all tests in one process.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup_env.sh dev
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
exec .venv/bin/python -m pytest -n 2 --dist loadfile \
  -m 'not slow and not gpu' "$@"
