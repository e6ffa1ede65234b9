#!/usr/bin/env bash
# Make `.venv` in this checkout and install Offramp into it.
#
#   deploy/setup.sh         what it takes to run
#   deploy/setup.sh test    and what it takes to test
#
# On a fresh Debian, `python3 -m venv` lacks a package; it is installed then.
set -euo pipefail
cd "$(dirname "$0")/.."

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# Debian's python3 can say that it has venv and fail at ensurepip; the folder that
# it leaves behind then must go.
if ! python3 -m venv .venv 2>/dev/null; then
    rm -rf .venv
    as_root apt-get update -qq
    as_root apt-get install -y -qq python3-venv
    python3 -m venv .venv
fi

if [ "${1:-}" = test ]; then
    .venv/bin/pip install --quiet --disable-pip-version-check --editable '.[test]'
else
    .venv/bin/pip install --quiet --disable-pip-version-check .
fi
