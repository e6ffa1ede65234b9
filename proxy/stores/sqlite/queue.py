"""The slim queue: what waits under each batch key, and its counters."""

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from proxy.core.errors import StoreCorruptError
from proxy.core.ids import CredentialId
from proxy.core.job import AnswerMode, Job
from proxy.core.lanes import BatchKey
from proxy.core.plan import Head
from proxy.stores.codec import decode_job, decode_key, encode_key, from_micros, to_micros
from proxy.stores.sqlite.database import Database
from proxy.stores.sqlite.statements import Insert
from proxy.stores.unread import Unread

# Records are read as bytes: read as text, a damaged one that is no longer UTF-8 would fail the
# whole query, and with it all others.

# The index by name: both conditions could also be met by reading the whole queue
# in the order of claiming, and the planner has no statistics to know better.
_BY_DEADLINE: Final = """
    SELECT jobs.id, CAST(jobs.record AS BLOB) FROM queue INDEXED BY queue_deadlines
    JOIN jobs ON jobs.num = queue.job
    WHERE queue.key = (SELECT id FROM keys WHERE key = ?)
    AND queue.ready <= ? AND queue.deadline < ?
    ORDER BY queue.deadline, queue.ready LIMIT ?
"""

_ESCALATING: Final = """
    SELECT id, CAST(record AS BLOB) FROM jobs WHERE state = 'escalating' LIMIT ?
"""

_HEADS: Final = """
    SELECT keys.id, CAST(key AS BLOB), count, bytes, tokens, held, small,
        (SELECT ready FROM queue WHERE queue.key = keys.id ORDER BY ready LIMIT 1),
        (SELECT ready FROM queue WHERE queue.key = keys.id ORDER BY ready DESC LIMIT 1),
        (SELECT deadline FROM queue WHERE queue.key = keys.id ORDER BY deadline LIMIT 1),
        EXISTS (SELECT 1 FROM credentials
            WHERE credentials.id = keys.credential AND paused IS NOT NULL)
    FROM keys WHERE count > 0
"""

_QUEUE: Final = Insert("queue", columns=9)

_COUNT: Final = """
    INSERT INTO keys (key, credential, count, bytes, tokens, held) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET count = count + excluded.count,
        bytes = bytes + excluded.bytes, tokens = tokens + excluded.tokens,
        held = held + excluded.held
    RETURNING id
"""

_ALWAYS: Final = 1 << 62
"""Later than any time, in microseconds."""


class SqliteQueueStore:
    """Jobs that wait to be called directly."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._unread = Unread()

    async def take(self, key: BatchKey, *, ready_at: datetime, limit: int) -> Sequence[Job]:
        return await self._near(encode_key(key), to_micros(ready_at), _ALWAYS, limit=limit)

    async def due(self, key: BatchKey, *, before: datetime, limit: int) -> Sequence[Job]:
        return await self._near(encode_key(key), _ALWAYS, to_micros(before), limit=limit)

    async def escalating(self, *, limit: int) -> Sequence[Job]:
        return await self._read(_ESCALATING, limit)

    async def _near(self, *values: object, limit: int) -> Sequence[Job]:
        found = await self._read(_BY_DEADLINE, *values, limit + self._unread.count)
        return found[:limit]

    async def _read(self, query: str, *values: object) -> Sequence[Job]:
        def read(connection: sqlite3.Connection) -> list[Job]:
            return self._unread.readable(connection.execute(query, values), decode_job)

        return await self._database.read(read)


def enqueue(connection: sqlite3.Connection, jobs: Sequence[tuple[int, Job]]) -> None:
    """Put jobs, each with its number, under their keys and count them."""
    keys = _count(connection, [job for _, job in jobs])
    _QUEUE.execute(
        connection,
        [
            (
                keys[job.key],
                to_micros(job.ready_at),
                number,
                job.attempt,
                job.body_bytes,
                job.tokens,
                to_micros(job.deadline),
                job.affinity,
                job.answer is AnswerMode.WAIT,
            )
            for number, job in jobs
        ],
    )


def _count(connection: sqlite3.Connection, jobs: Sequence[Job]) -> dict[BatchKey, int]:
    """Add the jobs to their keys' counters; return the keys' numbers."""
    sums: dict[BatchKey, tuple[int, int, int, int]] = {}
    for job in jobs:
        count, size, tokens, held = sums.get(job.key, (0, 0, 0, 0))
        held += job.answer is AnswerMode.WAIT
        sums[job.key] = (count + 1, size + job.body_bytes, tokens + job.tokens, held)
    numbers = {}
    for key, amounts in sums.items():
        (numbers[key],) = connection.execute(
            _COUNT, (encode_key(key), key.credential, *amounts)
        ).fetchone()
    return numbers


def dequeue(connection: sqlite3.Connection, number: int, job: Job) -> None:
    """Take the job, as it was queued, out again."""
    key_id = uncount(
        connection,
        encode_key(job.key),
        (1, job.body_bytes, job.tokens, int(job.answer is AnswerMode.WAIT)),
    )
    gone = connection.execute(
        "DELETE FROM queue WHERE key = ? AND ready = ? AND job = ?",
        (key_id, to_micros(job.ready_at), number),
    )
    assert gone.rowcount == 1, f"job {job.id} is not where it was queued"


def uncount(connection: sqlite3.Connection, key: str, amounts: tuple[int, int, int, int]) -> int:
    """Take count, bytes, tokens and held off the key's counters; return its number."""
    (key_id,) = connection.execute(
        "UPDATE keys SET count = count - ?, bytes = bytes - ?, tokens = tokens - ?,"
        " held = held - ? WHERE key = ? RETURNING id",
        (*amounts, key),
    ).fetchone()
    return int(key_id)


def heads(connection: sqlite3.Connection, unread: Unread) -> list[Head]:
    """Return one row for each key that has queued jobs."""
    rows = connection.execute(_HEADS)
    return unread.readable(((f"queue {number}", row) for number, *row in rows), _head)


def _head(row: Sequence[Any]) -> Head:
    key, count, size, tokens, held, small, oldest, newest, nearest, paused = row
    if oldest is None:
        raise StoreCorruptError("a queue is counted in which nothing waits")
    return Head(
        key=decode_key(key),
        count=count,
        body_bytes=size,
        tokens=tokens,
        oldest_at=from_micros(oldest),
        newest_at=from_micros(newest),
        nearest_deadline=from_micros(nearest),
        held=held,
        small_batches=small,
        paused=bool(paused),
    )


def note_size(connection: sqlite3.Connection, *, key: BatchKey, small: bool) -> None:
    """Count a small batch of the key, or start from zero."""
    connection.execute(
        "INSERT INTO keys (key, credential, small) VALUES (?, ?, ?)"
        " ON CONFLICT (key) DO UPDATE SET small = CASE excluded.small WHEN 0 THEN 0"
        " ELSE small + 1 END",
        (encode_key(key), key.credential, int(small)),
    )


def forget_keys(connection: sqlite3.Connection, credential_id: CredentialId) -> None:
    """Forget the counters of a credential under which nothing waits."""
    connection.execute("DELETE FROM keys WHERE credential = ? AND count = 0", (credential_id,))
