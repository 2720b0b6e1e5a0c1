#!/usr/bin/env bash
# Makes .venv if there is none and runs scripts/quickstart.py, which says what
# it does; arguments go to it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup_env.sh
exec .venv/bin/python -m scripts.quickstart "$@"
