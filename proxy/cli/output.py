"""Print for people and for machines. What others sent is never trusted with the terminal."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

_GAP: Final = 2
"""Between two columns; `Table` pads each with one on either side."""

_NAME: Final = 44
"""Names up to this length (a hash has 43 characters) are worth a spare column; a longer one is
broken, so that a single caller's odd model does not take the columns of all."""

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z")


def print_json(content: object) -> None:
    """Print one JSON document."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    if not text.replace("\n", "").isprintable():
        # Half a surrogate pair cannot be written, and what a terminal obeys must not be.
        text = json.dumps(content, indent=2)
    click.echo(text)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, spare: Sequence[str] = ()
) -> None:
    """Print a table, as wide as the terminal or, in a pipe, as its content.

    A terminal that has no room for all columns goes without those that `spare` names, one
    after another, until the others fit. A pipe gets everything.
    """
    rows = list(rows)
    if spare and sys.stdout.isatty():
        columns, rows = _without(columns, rows, spare, shutil.get_terminal_size().columns)
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    # In a pipe nothing may be cut: the next program wants whole words.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    Console(file=sys.stdout, width=width, highlight=False).print(table)


def print_records(
    columns: Sequence[str], records: object, *, cell: Callable[[Mapping[str, object], str], object]
) -> None:
    """Print a table of records, one column a member.

    `columns` stand in the order of their worth: a terminal that has no room for all of
    them gets the first ones, with times to the minute. A pipe gets everything.
    """
    found = (
        [one for one in records if isinstance(one, Mapping)] if isinstance(records, list) else []
    )
    rows = [[cell(one, column) for column in columns] for one in found]
    if sys.stdout.isatty():
        rows = [[_to_the_minute(value) for value in row] for row in rows]
        columns = columns[: _fitting(columns, rows, shutil.get_terminal_size().columns)]
    print_table(columns, [row[: len(columns)] for row in rows])


def print_facts(facts: Mapping[str, object], *, as_json: bool) -> None:
    """Print names and values beneath each other, what is nested under dotted names; or as JSON."""
    if as_json:
        print_json(facts)
    else:
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
    """Return `value` as people read it: Unix seconds as a time if `name` says that they are one."""
    if isinstance(value, str) and _TIME.fullmatch(value):
        return f"{value[:10]} {value[11:19]}Z"
    if isinstance(value, float):
        # What one call costs would else be told by powers of ten.
        return f"{value:.9f}".rstrip("0").rstrip(".")
    if isinstance(value, int) and (name.endswith("_at") or name == "deadline"):
        return datetime.fromtimestamp(value, UTC).isoformat(sep=" ").replace("+00:00", "Z")
    return value


def _without(
    columns: Sequence[str], rows: Sequence[Sequence[object]], spare: Sequence[str], width: int
) -> tuple[Sequence[str], list[Sequence[object]]]:
    """Return the columns that a terminal of this width has room for, and their cells."""
    kept = list(range(len(columns)))
    for name in spare:
        shown_columns = [columns[at] for at in kept]
        cells = [[plain(row[at])[:_NAME] for at in kept] for row in rows]
        if _fitting(shown_columns, cells, width) == len(kept):
            break
        kept.remove(columns.index(name))
    return [columns[at] for at in kept], [[row[at] for at in kept] for row in rows]


def _fitting(columns: Sequence[str], rows: Sequence[Sequence[object]], width: int) -> int:
    """Return how many columns fit beside each other, at least one."""
    used = 0
    for at, column in enumerate(columns):
        used += max(len(plain(text)) for text in (column, *(row[at] for row in rows)))
        if used > width:
            return max(at, 1)
        used += _GAP
    return len(columns)


def _to_the_minute(value: object) -> object:
    if isinstance(value, str) and _TIME.fullmatch(value):
        return value[:16].replace("T", " ")
    return value


def _flat(facts: Mapping[str, object], prefix: str) -> Iterable[tuple[str, object]]:
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, shown(name, value)
