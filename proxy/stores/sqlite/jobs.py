"""Job records, payloads and results."""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Final, TypeVar

from proxy.core.errors import JobNotFoundError
from proxy.core.ids import JobId, OwnerId
from proxy.core.job import TERMINAL, Job
from proxy.core.repeats import Answered
from proxy.ports.jobs import Acceptance, JobFilter, JobWrite, NewJob, Pending, Result
from proxy.stores.codec import decode_job, encode_job, encode_key, to_micros
from proxy.stores.sqlite.database import Database, Insert, Row
from proxy.stores.sqlite.erase import as_blob, erase_job
from proxy.stores.sqlite.listing import Listing
from proxy.stores.sqlite.queue import queue_row, ready
from proxy.stores.sqlite.replace import EncodedWrite, replace_many
from proxy.stores.vault import Vault

T = TypeVar("T")

SEAL_INLINE_BYTES: Final = 65_536
"""Up to here sealing takes under a millisecond; more of it leaves the event loop."""

PRUNE_CHUNK: Final = 50
"""Jobs erased in one transaction: pages of their payloads are freed one by one."""

_ACCEPTING: Final = Insert("accepting", columns=20)

_SELECT: Final = """
    SELECT jobs.id, jobs.record, batches.id FROM json_each(?) AS wanted
    CROSS JOIN jobs ON jobs.id = wanted.value AND jobs.state <> 'erased'
    LEFT JOIN items ON items.job = jobs.num AND items.attempt = jobs.attempt + 1
        AND jobs.state = 'queued'
    LEFT JOIN batches ON batches.num = items.batch
"""


class SqliteJobStore:
    """Durable jobs."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    async def accept(self, new: NewJob) -> Acceptance:
        seal = partial(self._vault.seal, new.body, context=_payload(new.job.id))
        sealed = await _where_it_fits(seal, len(new.body))
        row = _accepting_row(new, sealed)
        if new.idempotency_key is not None or new.job.tags:
            return await self._database.write(partial(_accept, new=new, row=row))
        await self._database.insert(_ACCEPTING, row)
        return Acceptance(new.job, created=True)

    async def get(self, job_id: JobId) -> Job:
        job = await self._database.read(partial(_find, job_id=job_id))
        if job is None:
            raise JobNotFoundError(job_id)
        return job

    async def get_many(self, job_ids: Sequence[JobId]) -> Sequence[Job]:
        return await self._database.read(partial(_find_many, job_ids=job_ids))

    async def replace_many(self, writes: Sequence[JobWrite]) -> frozenset[JobId]:
        size = sum(len(write.result.body) for write in writes if write.result)
        encoded = await _where_it_fits(lambda: list(map(self._encoded, writes)), size)
        return await self._database.write(partial(replace_many, writes=encoded))

    def _encoded(self, write: JobWrite) -> EncodedWrite:
        after, result = write.after, write.result
        sealed = self._vault.seal(result.body, context=_answer(after.id)) if result else b""
        return EncodedWrite(after, encode_job(after), result, sealed, write.bookings)

    async def body(self, job_id: JobId) -> bytes:
        body = await self._database.read(partial(_body, vault=self._vault, job_id=job_id))
        if body is None:
            raise JobNotFoundError(job_id)
        return body

    async def result(self, job_id: JobId) -> Result | None:
        return await self._database.read(partial(_result, vault=self._vault, job_id=job_id))

    async def list_jobs(
        self, owner: OwnerId, where: JobFilter, *, after: JobId | None, limit: int
    ) -> Sequence[Job]:
        listing = Listing(owner, where, after=after, limit=limit)
        # Page by page: a rare state among a million jobs must not hold up the others.
        while not listing.complete:
            await self._database.read(listing.read_page)
        return listing.found

    async def erase(self, job_id: JobId) -> None:
        await self._database.write(partial(_erase, job_id=job_id))

    async def pending(self, owners: Sequence[OwnerId] | None = None) -> Mapping[OwnerId, Pending]:
        return await self._database.read(partial(_pending, owners=owners))

    async def prune(self, *, finalized_before: datetime, limit: int) -> int:
        pruned = 0
        while pruned < limit:
            chunk = min(PRUNE_CHUNK, limit - pruned)
            before = to_micros(finalized_before)
            count = await self._database.write(partial(_prune, before=before, limit=chunk))
            pruned += count
            if count < chunk:
                break
        return pruned


async def _where_it_fits(seal: Callable[[], T], size: int) -> T:
    """Seal here, or in another thread if it is more than the event loop may wait for."""
    return seal() if size <= SEAL_INLINE_BYTES else await asyncio.to_thread(seal)


def open_payload(vault: Vault, job_id: JobId, sealed: bytes) -> bytes:
    """Return the body of the job's call."""
    return vault.open(sealed, context=_payload(job_id))


def _payload(job_id: JobId) -> str:
    return f"payload:{job_id}"


def _answer(job_id: JobId) -> str:
    return f"result:{job_id}"


def _find(connection: sqlite3.Connection, job_id: JobId) -> Job | None:
    found = _find_many(connection, [job_id])
    return found[0] if found else None


def _find_many(connection: sqlite3.Connection, job_ids: Sequence[JobId]) -> list[Job]:
    rows = {row[0]: row[1:] for row in connection.execute(_SELECT, (json.dumps(job_ids),))}
    return [decode_job(*rows[job_id]) for job_id in job_ids if job_id in rows]


def _accepting_row(new: NewJob, sealed: bytes) -> Row:
    job = new.job
    return (
        job.id,
        job.owner,
        job.state,
        job.attempt,
        job.version,
        to_micros(job.accepted_at),
        job.key.credential,
        encode_job(job),
        sealed,
        job.fingerprint,
        Answered.WAITING,
        to_micros(new.waiter_until),
        new.retry_count,
        encode_key(job.key),
        ready(job),
        *queue_row(job),
    )


def _accept(connection: sqlite3.Connection, new: NewJob, row: Row) -> Acceptance:
    job = new.job
    if new.idempotency_key is not None:
        known = connection.execute(
            "SELECT jobs.id FROM idempotency JOIN jobs ON jobs.num = idempotency.job"
            " WHERE idempotency.owner = ? AND idempotency.key = ?",
            (job.owner, new.idempotency_key),
        ).fetchone()
        found = _find(connection, known[0]) if known else None
        if found is not None:
            return Acceptance(found, created=False)
    connection.execute(_ACCEPTING.single, row)
    (number,) = connection.execute("SELECT num FROM jobs WHERE id = ?", (job.id,)).fetchone()
    if new.idempotency_key is not None:
        connection.execute(
            "INSERT INTO idempotency VALUES (?, ?, ?)", (job.owner, new.idempotency_key, number)
        )
    connection.executemany(
        "INSERT INTO tags VALUES (?, ?, ?, ?, ?)",
        [
            (job.owner, as_blob(name), as_blob(value), to_micros(job.accepted_at), number)
            for name, value in job.tags.items()
        ],
    )
    return Acceptance(job, created=True)


def _body(connection: sqlite3.Connection, vault: Vault, job_id: JobId) -> bytes | None:
    row = connection.execute(
        "SELECT body FROM payloads WHERE job = (SELECT num FROM jobs WHERE id = ?)", (job_id,)
    ).fetchone()
    return open_payload(vault, job_id, row[0]) if row else None


def _result(connection: sqlite3.Connection, vault: Vault, job_id: JobId) -> Result | None:
    row = connection.execute(
        "SELECT status, content_type, request_id, body FROM results"
        " WHERE job = (SELECT num FROM jobs WHERE id = ?)",
        (job_id,),
    ).fetchone()
    if row is None:
        return None
    status, content_type, request_id, sealed = row
    return Result(
        status_code=status,
        body=vault.open(sealed, context=_answer(job_id)),
        content_type=content_type,
        request_id=request_id,
    )


def _erase(connection: sqlite3.Connection, job_id: JobId) -> None:
    row = connection.execute(
        "SELECT num, state FROM jobs WHERE id = ? AND state <> 'erased'", (job_id,)
    ).fetchone()
    if row is not None:
        assert row[1] in TERMINAL, f"job {job_id} is {row[1]} and cannot be erased"
        erase_job(connection, row[0])


def _pending(
    connection: sqlite3.Connection, owners: Sequence[OwnerId] | None
) -> dict[OwnerId, Pending]:
    query = "SELECT owner, jobs, bytes FROM owners WHERE jobs > 0"
    if owners is None:
        rows = connection.execute(query).fetchall()
    else:
        rows = [
            row
            for owner in dict.fromkeys(owners)
            for row in connection.execute(f"{query} AND owner = ?", (owner,))
        ]
    return {OwnerId(owner): Pending(jobs, size) for owner, jobs, size in rows}


def _prune(connection: sqlite3.Connection, before: int, limit: int) -> int:
    numbers = connection.execute(
        "SELECT num FROM jobs WHERE finalized < ? ORDER BY finalized LIMIT ?", (before, limit)
    ).fetchall()
    for (number,) in numbers:
        erase_job(connection, number)
    connection.execute("DELETE FROM owners WHERE jobs = 0")
    return len(numbers)
