#!/usr/bin/env bash
# Creates .venv if there is none and runs scripts/quickstart.py with the given
# arguments: it pre-trains a small network and fine-tunes it, on the CPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup_env.sh
exec .venv/bin/python -m scripts.quickstart "$@"
