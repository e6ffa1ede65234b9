"""How often calls came within their runs."""

import sqlite3
from datetime import datetime
from functools import partial
from typing import Final

from proxy.stores.codec import to_micros
from proxy.stores.sqlite.database import Database

_FORGET: Final = 10
"""Old counters that each count takes away: more than it adds, so none pile up."""


class SqliteRunStore:
    """Counters of the processes that share the file."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count(self, place: str, *, now: datetime, until: datetime) -> int:
        work = partial(_count, place=place, now=to_micros(now), until=to_micros(until))
        return await self._database.write(work)


def prepare(connection: sqlite3.Connection) -> None:
    """Make what is missing."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS runs (place TEXT PRIMARY KEY, count INTEGER NOT NULL,"
        " until INTEGER NOT NULL) WITHOUT ROWID"
    )
    connection.execute("CREATE INDEX IF NOT EXISTS runs_until ON runs (until)")


def _count(connection: sqlite3.Connection, place: str, now: int, until: int) -> int:
    connection.execute(
        "DELETE FROM runs WHERE place IN (SELECT place FROM runs WHERE until <= ? LIMIT ?)",
        (now, _FORGET),
    )
    (count,) = connection.execute(
        "INSERT INTO runs VALUES (?, 1, ?) ON CONFLICT (place)"
        " DO UPDATE SET count = count + 1, until = excluded.until RETURNING count",
        (place, until),
    ).fetchone()
    return int(count)
