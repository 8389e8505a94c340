#!/usr/bin/env bash
# Measures this server beside its peers, which live in .venv-bench. Arguments go to benchmarks.run, e.g. --only http.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh dev
stamp=.venv-bench/installed
want=$(sha256sum <requirements/bench.txt)
if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
  echo "installing the peers into .venv-bench"
  .venv/bin/python -m venv --clear .venv-bench
  .venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/bench.txt
  echo "$want" >"$stamp"
fi
exec .venv/bin/python -m benchmarks.run "$@"
