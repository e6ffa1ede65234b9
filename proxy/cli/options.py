"""Options that several commands take, so that each means the same everywhere.

Those that need the application itself stand with `offramp run`: commands which do
without it must not load it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

FILE: Final = click.Path(path_type=Path, dir_okay=False)
"""A file, whether or not there is one by that name."""


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
