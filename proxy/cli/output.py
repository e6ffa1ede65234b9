"""Print for people and for machines. What others sent is never trusted with the terminal."""

import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_json(content: object) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(content, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, as wide as the terminal or, in a pipe, as its content."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    # In a pipe nothing may be cut: the next program wants whole words.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    Console(file=sys.stdout, width=width, highlight=False).print(table)


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values beneath each other; what is nested, under dotted names."""
    print_table(("", ""), list(_flat(facts, "")))


def plain(value: object) -> str:
    """Return `value` on one line, without anything that a terminal would obey."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value) or "-"
    return "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(value)
    )


def shown(name: str, value: object) -> object:
    """Return Unix seconds as a time if `name` says that they are one."""
    if isinstance(value, int) and (name.endswith("_at") or name == "deadline"):
        return datetime.fromtimestamp(value, UTC).isoformat(sep=" ").replace("+00:00", "Z")
    return value


def _flat(facts: Mapping[str, object], prefix: str) -> Iterable[tuple[str, object]]:
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, shown(name, value)
