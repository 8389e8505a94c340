#!/usr/bin/env bash
# Installs and serves on 127.0.0.1:8000 until interrupted. Arguments go to `mediaray serve`.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh server
exec .venv/bin/mediaray serve "$@"
