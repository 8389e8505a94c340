#!/usr/bin/env bash
# Installs, starts a private server, upscales a video and extracts a sound over HTTP, stops everything.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh server
exec .venv/bin/python scripts/demo.py
