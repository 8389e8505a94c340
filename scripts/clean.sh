#!/usr/bin/env bash
# Removes what the other scripts made in this folder. Data of a server (MEDIARAY_DATA_DIR) stays.
set -euo pipefail
cd "$(dirname "$0")/.."
rm -rf .venv .venv-bench demo-output benchmarks/out build ./*.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
find . -name __pycache__ -type d -prune -exec rm -rf {} +
