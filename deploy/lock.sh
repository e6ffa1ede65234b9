#!/usr/bin/env bash
# Write deploy/requirements.txt and deploy/requirements-build.txt: everything that
# the image installs, by exact version and hash.
#
# Run it with Debian 12's own Python, after a change in pyproject.toml and whenever a
# dependency is to be renewed. Versions that are locked already are kept;
# `deploy/lock.sh --upgrade` renews them all.
set -euo pipefail
cd "$(dirname "$0")/.."

# A lock that is made by a later Python lacks what distributions want below 3.11.3, and
# by hash nothing is installed there that it lacks. What is too much elsewhere is small.
python3 -c 'import sys; sys.exit(sys.version_info[:3] != (3, 11, 2))' || {
    echo "deploy/lock.sh: needs Python 3.11.2, which is Debian 12's own: PATH=/usr/bin:\$PATH" >&2
    exit 1
}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch"
"$scratch/bin/pip" install --quiet --upgrade pip
"$scratch/bin/pip" install --quiet 'pip-tools==7.6.2'

lock() {
    "$scratch/bin/pip-compile" --quiet --generate-hashes --strip-extras --allow-unsafe \
        --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header \
        "$@" pyproject.toml
}
lock --output-file deploy/requirements.txt "$@"
lock --output-file deploy/requirements-build.txt --all-build-deps --only-build-deps "$@"

for file in deploy/requirements.txt deploy/requirements-build.txt; do
    { echo "# Written by deploy/lock.sh; do not edit."; cat "$file"; } > "$scratch/locked"
    cat "$scratch/locked" > "$file"
done
