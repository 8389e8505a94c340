#!/usr/bin/env bash
# Installs and runs the whole test suite on two workers (tests/conftest.py shares it out). Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh dev
bash scripts/browser.sh
exec .venv/bin/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder "$@"
