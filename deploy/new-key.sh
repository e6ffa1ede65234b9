#!/usr/bin/env bash
# Make a key file for `secret_key_file`: what a fleet's instances share, or what an
# orchestrator mounts. Keep a copy: without it, the store cannot be read.
#
#   deploy/new-key.sh FILE
set -euo pipefail

if [ $# -ne 1 ]; then
    echo "usage: deploy/new-key.sh FILE" >&2
    exit 2
fi
fresh() { openssl rand -base64 32 | tr '+/' '-_' | tr -d '='; }
umask 077
# Not over an existing file: what was sealed with its key could not be read again.
set -o noclobber
{
    echo "# The first key seals, all open. Never change the hash line."
    echo "hash $(fresh)"
    echo "key $(fresh)"
} > "$1"
