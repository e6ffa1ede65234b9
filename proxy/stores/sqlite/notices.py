"""The ends of jobs that webhooks are still to be told of."""

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Final

from proxy.core.ids import JobId
from proxy.core.job import Job
from proxy.core.notices import Notice
from proxy.ports.notices import Standing
from proxy.stores.codec import from_micros, to_micros, to_micros_or
from proxy.stores.sqlite.database import Database
from proxy.stores.sqlite.statements import Insert, Row

REVIVE_CHUNK: Final = 500
"""Notices changed in one transaction: some milliseconds."""

_OWED: Final = Insert("notices", columns=5)

_DUE: Final = """
    SELECT notices.job, jobs.id, notices.since, notices.attempts
    FROM notices JOIN jobs ON jobs.num = notices.job
    WHERE notices.webhook = ? AND notices.due <= ? ORDER BY notices.due LIMIT ?
"""

_OF_JOB: Final = "job = (SELECT num FROM jobs WHERE id = ?)"

_TALLY: Final = """
    INSERT INTO webhooks (name, delivered, failed, delivered_at, failed_at, last_failure)
        VALUES (:name, :delivered, :failed, :delivered_at, :failed_at, :last_failure)
        ON CONFLICT (name) DO UPDATE SET
            delivered = delivered + excluded.delivered,
            failed = failed + excluded.failed,
            delivered_at = coalesce(excluded.delivered_at, delivered_at),
            failed_at = coalesce(excluded.failed_at, failed_at),
            last_failure = coalesce(excluded.last_failure, last_failure)
"""

Due = tuple[int, JobId, int, int]


# Nothing is due of what was given up.
_TABLES: Final = (
    """
    CREATE TABLE IF NOT EXISTS notices (
        job INTEGER PRIMARY KEY,
        webhook TEXT NOT NULL,
        since INTEGER NOT NULL,
        due INTEGER,
        attempts INTEGER NOT NULL
    )
    """,
    "CREATE INDEX IF NOT EXISTS notices_due ON notices (webhook, due)",
    """
    CREATE TABLE IF NOT EXISTS webhooks (
        name TEXT PRIMARY KEY,
        delivered INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        delivered_at INTEGER,
        failed_at INTEGER,
        last_failure TEXT
    ) WITHOUT ROWID
    """,
)


class SqliteNoticeStore:
    """Durable notices."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(
        self, webhook: str, *, now: datetime, until: datetime, limit: int
    ) -> Sequence[Notice]:
        look = partial(_due, webhook=webhook, now=to_micros(now), limit=limit)
        if not await self._database.read(look):
            # Mostly so, and a write costs an `fsync` even if it changes nothing.
            return []
        taken = await self._database.write(partial(_take, look=look, until=to_micros(until)))
        return [
            Notice(job_id=job_id, webhook=webhook, owed_since=from_micros(since), attempts=attempts)
            for _, job_id, since, attempts in taken
        ]

    async def delivered(self, notice: Notice, *, at: datetime) -> None:
        await self._database.write(partial(_delivered, notice=notice, at=to_micros(at)))

    async def failed(
        self, notice: Notice, *, at: datetime, failure: str, again_at: datetime | None
    ) -> None:
        due = to_micros_or(again_at, None)
        await self._database.write(
            partial(_failed, notice=notice, at=to_micros(at), failure=failure, due=due)
        )

    async def forget(self, notice: Notice) -> None:
        await self._database.write(partial(_forget, notice=notice))

    async def revive(self, webhook: str, *, at: datetime) -> int:
        revived = 0
        while count := await self._database.write(
            partial(_revive, webhook=webhook, at=to_micros(at))
        ):
            revived += count
        return revived

    async def standing(self, webhooks: Sequence[str]) -> Mapping[str, Standing]:
        return await self._database.read(partial(_standing, webhooks=webhooks))


def prepare(connection: sqlite3.Connection) -> None:
    """Make what is missing."""
    for statement in _TABLES:
        connection.execute(statement)


def owe(connection: sqlite3.Connection, ended: Sequence[tuple[int, Job]]) -> None:
    """Note which of these jobs that end now, each with its number, webhooks are to be told of."""
    rows: list[Row] = []
    for number, job in ended:
        if job.webhook is not None and job.finalized_at is not None:
            at = to_micros(job.finalized_at)
            rows.append((number, job.webhook, at, at, 0))
    if rows:
        _OWED.execute(connection, rows)


def _due(connection: sqlite3.Connection, webhook: str, now: int, limit: int) -> list[Due]:
    return connection.execute(_DUE, (webhook, now, limit)).fetchall()


def _take(connection: sqlite3.Connection, look: partial[list[Due]], until: int) -> list[Due]:
    # Looked up again: another process may have been faster.
    due = look(connection)
    connection.executemany(
        "UPDATE notices SET due = ? WHERE job = ?", [(until, number) for number, *_ in due]
    )
    return due


def _delivered(connection: sqlite3.Connection, notice: Notice, at: int) -> None:
    _forget(connection, notice)
    _count(connection, notice.webhook, delivered=1, delivered_at=at)


def _failed(
    connection: sqlite3.Connection, notice: Notice, at: int, failure: str, due: int | None
) -> None:
    changed = connection.execute(
        f"UPDATE notices SET attempts = attempts + 1, due = ? WHERE {_OF_JOB} AND attempts = ?",  # noqa: S608 - our own words
        (due, notice.job_id, notice.attempts),
    )
    if changed.rowcount:
        _count(connection, notice.webhook, failed=1, failed_at=at, last_failure=failure)


def _forget(connection: sqlite3.Connection, notice: Notice) -> None:
    connection.execute(f"DELETE FROM notices WHERE {_OF_JOB}", (notice.job_id,))  # noqa: S608 - as above


def _revive(connection: sqlite3.Connection, webhook: str, at: int) -> int:
    return connection.execute(
        "UPDATE notices SET due = ?, attempts = 0 WHERE job IN"
        " (SELECT job FROM notices WHERE webhook = ? AND due IS NULL LIMIT ?)",
        (at, webhook, REVIVE_CHUNK),
    ).rowcount


def _count(connection: sqlite3.Connection, webhook: str, **changes: object) -> None:
    usual = {"delivered": 0, "failed": 0, "delivered_at": None, "failed_at": None}
    connection.execute(_TALLY, {"name": webhook, "last_failure": None, **usual, **changes})


def _standing(connection: sqlite3.Connection, webhooks: Sequence[str]) -> dict[str, Standing]:
    return {name: _standing_of(connection, name) for name in webhooks}


def _standing_of(connection: sqlite3.Connection, name: str) -> Standing:
    pending, given_up = connection.execute(
        "SELECT count(due), count(*) - count(due) FROM notices WHERE webhook = ?", (name,)
    ).fetchone()
    tally = connection.execute(
        "SELECT delivered, failed, delivered_at, failed_at, last_failure FROM webhooks"
        " WHERE name = ?",
        (name,),
    ).fetchone()
    delivered, failed, delivered_at, failed_at, last_failure = tally or (0, 0, None, None, None)
    return Standing(
        pending=pending,
        given_up=given_up,
        delivered=delivered,
        failed=failed,
        delivered_at=None if delivered_at is None else from_micros(delivered_at),
        failed_at=None if failed_at is None else from_micros(failed_at),
        last_failure=last_failure,
    )
