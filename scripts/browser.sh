#!/usr/bin/env bash
# Makes sure of the programs that the documents' examples call beside Python: a browser, node, jq, curl.
# Debian's packages where apt-get may be used; otherwise one line says which tests will be skipped.
set -euo pipefail

has() { command -v "$1" >/dev/null; }

missing=()
has chromium || has chromium-browser || has google-chrome || missing+=(chromium)
has node || missing+=(nodejs)
has jq || missing+=(jq)
has curl || missing+=(curl)
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  sudo -n true 2>/dev/null || {
    echo "no ${missing[*]}, and neither root nor password-less sudo to install it: tests that need it are skipped"
    exit 0
  }
  as_root=(sudo -n)
fi
has apt-get || {
  echo "no ${missing[*]}, and no apt-get to install it with: tests that need it are skipped"
  exit 0
}
echo "installing ${missing[*]} for the tests"
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq)
{ "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "${missing[@]}"; } >/dev/null 2>&1 ||
  echo "apt-get could not install ${missing[*]}: tests that need it are skipped"
