"""`offramp batches`: what an operator can ask of a running proxy about its batches."""

import os
import re
from collections.abc import Callable
from urllib.parse import quote

import click

from proxy.cli.options import json_option, limit_option, read_url
from proxy.cli.output import print_facts, print_json, print_records, shown
from proxy.cli.remote import Remote

_COLUMNS = ("id", "state", "upstream", "model", "jobs", "created_at", "provider_batch_id")


def remote_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options by which the listener for operators is named."""
    for option in (
        json_option,
        click.option(
            "--admin-url",
            envvar="OFFRAMP_ADMIN_URL",
            metavar="URL",
            callback=read_url,
            default="http://127.0.0.1:8081",
            show_default=True,
            help="Also OFFRAMP_ADMIN_URL. Off loopback, OFFRAMP_ADMIN_TOKEN holds the token.",
        ),
    ):
        command = option(command)
    return command


def operators(admin_url: str, what: str) -> Remote:
    """Return the listener for operators, where `what` is."""
    token = os.environ.get("OFFRAMP_ADMIN_TOKEN", "").strip()
    return Remote(admin_url, token or None, hint=f"{what} is on the proxy's admin listener")


@click.group("batches")
def command() -> None:
    """Ask a running proxy about its batches."""


@command.command("list")
@limit_option
@remote_options
def list_batches(*, limit: int, admin_url: str, as_json: bool) -> None:
    """List batches, newest first."""
    page = operators(admin_url, "what is known of batches").get("/batches", {"limit": limit}).json()
    if as_json:
        print_json(page)
        return
    found = page.get("data")
    print_records(_COLUMNS, found, cell=lambda batch, column: shown(column, batch.get(column)))
    if isinstance(found, list) and len(found) == limit:
        click.echo("these are the newest: there may be more, by --limit", err=True)


@command.command("show")
@click.argument("batch")
@remote_options
def show(*, batch: str, admin_url: str, as_json: bool) -> None:
    """Show one batch, by its own ID or by the provider's."""
    if not re.fullmatch(r"\w[\w./:-]*", batch, re.ASCII):
        raise click.UsageError(f"{batch!r} is no batch ID")
    # Gemini's hold a slash.
    named = quote(batch, safe="")
    found = operators(admin_url, "what is known of batches").get(f"/batches/{named}").json()
    print_facts(found, as_json=as_json)
