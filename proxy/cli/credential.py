"""`offramp credential`."""

import sys

import click

from proxy.cli.options import json_option
from proxy.cli.output import print_json
from proxy.core.dialects import credential_hash


@click.group("credential")
def command() -> None:
    """Name tokens in the configuration without writing them there."""


@command.command("hash")
@json_option
def hash_token(*, as_json: bool) -> None:
    """Print what stands for a token under `owners`.

    Reads the token from standard input, or asks for it on a terminal; it is no
    argument, since arguments are seen by other users and kept by shells.
    """
    if sys.stdin.isatty():
        token = click.prompt("Token", hide_input=True, err=True)
    else:
        token = sys.stdin.read()
    words = token.split()
    if not words:
        raise click.UsageError("no token on standard input")
    if any("\ud800" <= char <= "\udfff" for char in token):
        raise click.UsageError("what stands on standard input is no text")
    # It may stand behind its scheme, as in a header.
    if len(words) > 1 + (words[0].lower() == "bearer"):
        raise click.UsageError("more than one token on standard input")
    hashed = credential_hash(words[-1])
    if as_json:
        print_json({"hash": hashed})
    else:
        click.echo(hashed)
