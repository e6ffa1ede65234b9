"""`offramp worker`: one of several processes that `offramp serve` starts. Not for people."""

import sys

import click

from proxy.app import run
from proxy.workers import receive


@click.command("worker", hidden=True)
def command() -> None:
    """Run the part of a worker that comes over standard input."""
    configuration, worker = receive(sys.stdin.buffer)
    run(configuration, worker)
