"""Options that several commands take, so that each means the same everywhere.

Those that need the application itself stand with `offramp run`: commands which do
without it must not load it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from proxy.send.address import proxy_url

Command = TypeVar("Command", bound=Callable[..., Any])

FILE: Final = click.Path(path_type=Path, dir_okay=False)
"""A file, whether or not there is one by that name."""


def read_url(ctx: click.Context, param: click.Parameter, text: str | None) -> str | None:
    """Take the URL of a running proxy; the callback of an option."""
    if text is None:
        return None
    try:
        return proxy_url(text)
    except ValueError as exc:
        raise click.BadParameter(str(exc), ctx=ctx, param=param) from None


def config_option(use: str) -> Callable[[Command], Command]:
    """Return `--config`; `use` is a sentence on what the command has it for."""
    return click.option(
        "--config", type=FILE, envvar="OFFRAMP_CONFIG", help=f"{use} Also OFFRAMP_CONFIG."
    )


json_option: Final = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, for programs."
)

limit_option: Final = click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="The most to show.",
)
