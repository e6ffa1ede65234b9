"""Who waits for the answer about a job.

The rule of claiming is `proxy.core.repeats.claim_rank`. Here it is a query for those
that nobody cares for, and one for the others, each over an index in that order, so that
the best and oldest is found without reading the thousands of identical calls beside it.
"""

import json
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Final

from proxy.core.chunks import chunked
from proxy.core.ids import JobId, OwnerId
from proxy.core.repeats import CLAIM_WINDOW, WAITER_LEASE, Answered
from proxy.ports.jobs import DeliveryNote
from proxy.stores.codec import to_micros
from proxy.stores.sqlite.database import Database

RENEW_CHUNK: Final = 200

# The lease of a broken connection ends at once.
_FINISH: Final = """
    UPDATE deliveries
    SET state = :state, until = CASE :state WHEN 'flushed' THEN until ELSE 0 END
    WHERE job IN (SELECT jobs.num FROM json_each(:job_ids) AS told
        JOIN jobs ON jobs.id = told.value)
    AND retry_count <= :retry_count
"""

_RANKS: Final = (
    # Broken or abandoned.
    """
    SELECT job FROM deliveries INDEXED BY deliveries_open
    WHERE owner = :owner AND fingerprint = :fingerprint AND state <> 'flushed'
        AND until <= :now
    ORDER BY job LIMIT 1
    """,
    # Cared for, claimed by a later try: flushed lately, or still held.
    """
    SELECT job FROM (
        SELECT * FROM (
            SELECT job, retry_count, 0 AS held FROM deliveries INDEXED BY deliveries_flushed
            WHERE owner = :owner AND fingerprint = :fingerprint AND state = 'flushed'
                AND claimed >= :window AND retry_count < :retry_count
            ORDER BY retry_count, job LIMIT 1
        )
        UNION ALL
        SELECT * FROM (
            SELECT job, retry_count, 1 AS held FROM deliveries INDEXED BY deliveries_open
            WHERE owner = :owner AND fingerprint = :fingerprint AND state <> 'flushed'
                AND claimed >= :window AND retry_count < :retry_count
            ORDER BY retry_count, job LIMIT 1
        )
    )
    ORDER BY retry_count, held LIMIT 1
    """,
)


class SqliteDeliveryStore:
    """Waiters, their leases and who claims them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(
        self, owner: OwnerId, fingerprint: str, *, retry_count: int, now: datetime
    ) -> JobId | None:
        values = {
            "owner": owner,
            "fingerprint": fingerprint,
            "retry_count": retry_count,
            "now": to_micros(now),
            "window": to_micros(now - CLAIM_WINDOW),
            "until": to_micros(now + WAITER_LEASE),
        }
        return await self._database.write(partial(_claim, values=values))

    async def renew(self, job_ids: Sequence[JobId], *, until: datetime) -> None:
        for chunk in chunked(job_ids, RENEW_CHUNK):
            await self._database.write(partial(_renew, job_ids=chunk, until=to_micros(until)))

    async def finish(self, notes: Sequence[DeliveryNote]) -> None:
        # Without power no connection of this machine is left, and leases end by themselves.
        work = partial(_finish, notes=notes)
        if all(note.flushed for note in notes):
            # Until it is written, a repeat finds the job as one that is held: it may claim
            # it under the same conditions.
            await self._database.write_along(work)
        else:
            await self._database.write(work, relaxed=True)

    async def claimable_owners(self, *, now: datetime) -> frozenset[OwnerId]:
        return await self._database.read(partial(_claimable_owners, now=to_micros(now)))


def _claim(connection: sqlite3.Connection, values: dict[str, object]) -> JobId | None:
    for query in _RANKS:
        row = connection.execute(query, values).fetchone()
        if row is not None:
            connection.execute(
                "UPDATE deliveries SET state = 'waiting', until = :until, claimed = :now,"
                " retry_count = max(retry_count, :retry_count) WHERE job = :job",
                {**values, "job": row[0]},
            )
            (job_id,) = connection.execute("SELECT id FROM jobs WHERE num = ?", row).fetchone()
            return JobId(job_id)
    return None


def _finish(connection: sqlite3.Connection, notes: Sequence[DeliveryNote]) -> None:
    alike: dict[tuple[Answered, int], list[JobId]] = {}
    for note in notes:
        state = Answered.FLUSHED if note.flushed else Answered.BROKEN
        alike.setdefault((state, note.retry_count), []).append(note.job_id)
    for (state, retry_count), job_ids in alike.items():
        values = {"state": state, "job_ids": json.dumps(job_ids), "retry_count": retry_count}
        connection.execute(_FINISH, values)


def _renew(connection: sqlite3.Connection, job_ids: Sequence[JobId], until: int) -> None:
    connection.executemany(
        "UPDATE deliveries SET until = ? WHERE job = (SELECT num FROM jobs WHERE id = ?)"
        " AND state = 'waiting'",
        [(until, job_id) for job_id in job_ids],
    )


def _claimable_owners(connection: sqlite3.Connection, now: int) -> frozenset[OwnerId]:
    rows = connection.execute(
        "SELECT DISTINCT owner FROM deliveries INDEXED BY deliveries_waiting"
        " WHERE state <> 'flushed' AND until <= ?",
        (now,),
    )
    return frozenset(OwnerId(owner) for (owner,) in rows)
