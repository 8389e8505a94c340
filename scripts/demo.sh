#!/usr/bin/env bash
# Installs, starts a private server, runs a few tasks over HTTP, leaves their files in demo-output, stops everything.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh server
exec .venv/bin/python scripts/demo.py
