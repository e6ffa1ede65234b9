"""Statements that write many rows at once.

Each statement, and each row that is fetched, hands the interpreter's lock to another
thread, and gets it back late when that one is busy. So a hundred rows must not mean a
hundred of either: they are inserted by one statement, and fetched as one list in JSON.
"""

import sqlite3
from collections.abc import Sequence
from itertools import chain

Row = tuple[str | bytes | int | None, ...]


class Insert:
    """An `INSERT` of as many rows as there are."""

    def __init__(self, table: str, columns: int, *, on_conflict: str = "") -> None:
        """`on_conflict` is an upsert clause, for a row whose key is there already."""
        self._head = f"INSERT INTO {table} VALUES "  # noqa: S608 - our own names
        self._row = f"({', '.join('?' * columns)})"
        self._tail = f" ON CONFLICT {on_conflict}" if on_conflict else ""

    def execute(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
        """Insert all rows, at least one, by one statement."""
        statement = self._head + ", ".join([self._row] * len(rows)) + self._tail
        connection.execute(statement, tuple(chain.from_iterable(rows)))
