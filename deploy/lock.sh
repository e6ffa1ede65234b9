#!/usr/bin/env bash
# Write deploy/requirements.txt and deploy/requirements-build.txt: everything that
# the image installs, by exact version and hash.
#
# Run it with the Python of the image (3.11), after a change in pyproject.toml and
# whenever a dependency is to be renewed. Versions that are locked already are kept;
# `deploy/lock.sh --upgrade` renews them all.
set -euo pipefail
cd "$(dirname "$0")/.."

python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
    echo "deploy/lock.sh: needs Python 3.11, as the image has it" >&2
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
