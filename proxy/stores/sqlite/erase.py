"""What is erased with a job, or with the items of a batch, and what is kept for others."""

import sqlite3
from typing import Final

_PARTS: Final = ("payloads", "deliveries", "idempotency", "tags", "notices", "results")


def as_blob(text: str) -> bytes:
    """Return text of callers as bytes: it may hold lone surrogates, which SQLite refuses."""
    return text.encode("utf-8", "surrogatepass")


def erase_job(connection: sqlite3.Connection, number: int) -> None:
    """Erase a terminal job; leave its ID and owner while items refer to it."""
    for table in _PARTS:
        connection.execute(f"DELETE FROM {table} WHERE job = ?", (number,))  # noqa: S608 - our own names
    kept = connection.execute(
        "UPDATE jobs SET state = 'erased', accepted = 0, finalized = NULL, record = ''"
        " WHERE num = ? AND EXISTS (SELECT 1 FROM items WHERE job = ?)",
        (number, number),
    )
    if not kept.rowcount:
        connection.execute("DELETE FROM jobs WHERE num = ?", (number,))


def drop_items(connection: sqlite3.Connection, batch: int, limit: int) -> int:
    """Forget up to `limit` items of a batch, and tombstones that only they held."""
    jobs = connection.execute(
        "SELECT job FROM items WHERE batch = ? ORDER BY job LIMIT ?", (batch, limit)
    ).fetchall()
    if jobs:
        connection.execute("DELETE FROM items WHERE batch = ? AND job <= ?", (batch, *jobs[-1]))
        connection.executemany(
            "DELETE FROM jobs WHERE num = ? AND state = 'erased'"
            " AND NOT EXISTS (SELECT 1 FROM items WHERE items.job = jobs.num)",
            jobs,
        )
    return len(jobs)
