#!/usr/bin/env bash
# Make `.venv` in this checkout and install Offramp into it.
#
#   deploy/setup.sh         what it takes to run
#   deploy/setup.sh test    and what it takes to test
#   deploy/setup.sh callers the clients that `python -m tests.callers` plays, apart from it
#
# On a fresh Debian, `python3 -m venv` lacks a package; it is installed then.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
    "" | test | callers) ;;
    *)
        echo "usage: deploy/setup.sh [test | callers]" >&2
        exit 2
        ;;
esac

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# Wrappers want other versions of the SDKs than the project, and than each other:
# each file of requirements is an environment of its own below `.venv-callers`.
callers() {
    local file home
    command -v npm >/dev/null || { echo "deploy/setup.sh callers: needs npm" >&2; exit 1; }
    for file in tests/callers/requirements/*.txt; do
        home=".venv-callers/$(basename "$file" .txt)"
        python3 -m venv "$home"
        "$home/bin/pip" install --quiet --disable-pip-version-check --requirement "$file"
    done
    # No lock file: it would name the host of a registry. The versions are exact.
    npm install --prefix tests/callers/node --no-package-lock --no-audit --no-fund
}

# Debian's python3 can say that it has venv and fail at ensurepip; the folder that
# it leaves behind then must go.
if ! python3 -m venv .venv 2>/dev/null; then
    rm -rf .venv
    as_root apt-get update -qq
    as_root apt-get install -y -qq python3-venv
    python3 -m venv .venv
fi

if [ "${1:-}" = callers ]; then
    callers
elif [ "${1:-}" = test ]; then
    .venv/bin/pip install --quiet --disable-pip-version-check --editable '.[test]'
else
    .venv/bin/pip install --quiet --disable-pip-version-check .
fi
