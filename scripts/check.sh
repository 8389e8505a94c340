#!/usr/bin/env bash
# Lint, format, types and import directions; changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh dev
.venv/bin/ruff check .
.venv/bin/ruff format --check --quiet . || { .venv/bin/ruff format --check .; exit 1; }
.venv/bin/lint-imports
.venv/bin/mypy
