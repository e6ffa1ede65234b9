"""Sums of what was bought, per day."""

import sqlite3
from collections.abc import Iterable, Sequence
from datetime import date
from functools import partial
from typing import Final

from proxy.core.ledger import (
    RECEIPTS_KEPT,
    ROWS_PER_DAY,
    Booking,
    LedgerKey,
    Receipt,
    Sums,
    added,
    encode_sums,
)
from proxy.stores.ledger_texts import parse_row, parse_sums, row_text
from proxy.stores.sqlite.database import Database
from proxy.stores.unread import Unread

_TABLES: Final = (
    # Sums as text: what is added up grows with the versions, and SQL need not know it.
    """
    CREATE TABLE IF NOT EXISTS ledger (
        day TEXT NOT NULL,
        key TEXT NOT NULL,
        sums TEXT NOT NULL,
        PRIMARY KEY (day, key)
    ) WITHOUT ROWID
    """,
    "CREATE TABLE IF NOT EXISTS receipts (id TEXT PRIMARY KEY, day TEXT NOT NULL) WITHOUT ROWID",
)

_UNREAD: Final = Unread()


def prepare(connection: sqlite3.Connection) -> None:
    """Make the tables, if they are not there."""
    for statement in _TABLES:
        connection.execute(statement)


class SqliteLedgerStore:
    """The ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def book(self, receipts: Sequence[Receipt]) -> frozenset[str]:
        return await self._database.write(partial(_book, receipts=receipts))

    async def rows(self, *, since: date, until: date) -> Sequence[Booking]:
        return await self._database.read(partial(_rows, since=since, until=until))

    async def prune(self, *, before: date) -> int:
        return await self._database.write(partial(_prune, before=before))


def add_bookings(connection: sqlite3.Connection, entries: Iterable[Booking]) -> None:
    """Add to the rows, in the transaction that is open."""
    for key, sums in added(entries).items():
        if not _add(connection, key, sums) and not _insert(connection, key, sums):
            others = key.others()
            if not _add(connection, others, sums):
                _insert(connection, others, sums, limit=False)


def _add(connection: sqlite3.Connection, key: LedgerKey, sums: Sums) -> bool:
    place = (key.day.isoformat(), row_text(key))
    known = connection.execute(
        "SELECT CAST(sums AS BLOB) FROM ledger WHERE day = ? AND key = ?", place
    ).fetchone()
    if known is None:
        return False
    # Nobody can read what is damaged. What comes now must not be lost with it, nor its job.
    before = _UNREAD.readable([(f"ledger {key.day}", known[0])], parse_sums) or [Sums()]
    text = encode_sums(before[0] + sums)
    connection.execute("UPDATE ledger SET sums = ? WHERE day = ? AND key = ?", (text, *place))
    return True


def _insert(
    connection: sqlite3.Connection, key: LedgerKey, sums: Sums, *, limit: bool = True
) -> bool:
    day = key.day.isoformat()
    if limit:
        (count,) = connection.execute(
            "SELECT count(*) FROM ledger WHERE day = ?", (day,)
        ).fetchone()
        if count >= ROWS_PER_DAY:
            return False
    connection.execute(
        "INSERT INTO ledger VALUES (?, ?, ?)", (day, row_text(key), encode_sums(sums))
    )
    return True


def _book(connection: sqlite3.Connection, receipts: Sequence[Receipt]) -> frozenset[str]:
    new = []
    for receipt in receipts:
        done = connection.execute(
            "INSERT OR IGNORE INTO receipts VALUES (?, ?)",
            (receipt.id, receipt.bookings[0].key.day.isoformat()),
        )
        if done.rowcount:
            new.append(receipt)
    add_bookings(connection, [entry for receipt in new for entry in receipt.bookings])
    return frozenset(receipt.id for receipt in new)


def _rows(connection: sqlite3.Connection, since: date, until: date) -> list[Booking]:
    rows = connection.execute(
        # As bytes: see `stores.sqlite.queue`.
        "SELECT day, CAST(key AS BLOB), CAST(sums AS BLOB) FROM ledger"
        " WHERE day BETWEEN ? AND ? ORDER BY day, key",
        (since.isoformat(), until.isoformat()),
    )
    return _UNREAD.readable(
        ((f"ledger {row[0]}", row) for row in rows), lambda row: parse_row(*row)
    )


def _prune(connection: sqlite3.Connection, before: date) -> int:
    # Results of a day that is pruned may still be read.
    unread = (before - RECEIPTS_KEPT).isoformat()
    connection.execute("DELETE FROM receipts WHERE day < ?", (unread,))
    day = before.isoformat()
    return connection.execute("DELETE FROM ledger WHERE day < ?", (day,)).rowcount
