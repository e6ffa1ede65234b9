"""Job records, payloads and results."""

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Final

from proxy.core.errors import JobNotFoundError
from proxy.core.ids import JobId, OwnerId
from proxy.core.job import TERMINAL, Job
from proxy.ports.jobs import Acceptance, JobFilter, JobWrite, NewJob, Pending, Result, UnreadJob
from proxy.stores.codec import encode_ending, encode_job, to_micros
from proxy.stores.contexts import payload_context, result_context
from proxy.stores.sqlite.accepting import Accepting, accept_many, find_keyed
from proxy.stores.sqlite.credentials import CredentialRows
from proxy.stores.sqlite.database import Database, Work
from proxy.stores.sqlite.erase import erase_job
from proxy.stores.sqlite.gather import Gatherer
from proxy.stores.sqlite.listing import Listing
from proxy.stores.sqlite.records import find_job, find_jobs
from proxy.stores.sqlite.replace import EncodedWrite, replace_many
from proxy.stores.unread import Unread
from proxy.stores.vault import SEAL_INLINE_BYTES, Vault

PRUNE_CHUNK: Final = 50
"""Jobs erased in one transaction: pages of their payloads are freed one by one."""

_ENDED: Final = """
    SELECT num, finalized FROM jobs WHERE finalized < ?
    UNION ALL SELECT job, finalized FROM results WHERE finalized < ?
    ORDER BY finalized LIMIT ?
"""

_Arrival = tuple[NewJob, bytes | None]
"""A job to accept, with its body sealed if that is done already."""


class SqliteJobStore:
    """Durable jobs."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault
        self._credentials = CredentialRows(vault)
        self._unread = Unread()
        self._accepting: Gatherer[_Arrival, Acceptance] = Gatherer(database, self._prepare)

    async def accept(self, new: NewJob) -> Acceptance:
        sealed = None
        if len(new.body) > SEAL_INLINE_BYTES:
            # Others of its group must not wait for it.
            context = payload_context(new.job.id)
            sealed = await asyncio.to_thread(self._vault.seal, new.body, context=context)
        return await self._accepting.add((new, sealed))

    def _prepare(self, arrivals: Sequence[_Arrival]) -> Work[Sequence[Acceptance]]:
        unsealed = [
            (new.body, payload_context(new.job.id)) for new, sealed in arrivals if sealed is None
        ]
        sealing = iter(self._vault.seal_many(unsealed))
        encoded = [
            Accepting(
                new,
                encode_job(new.job),
                next(sealing) if sealed is None else sealed,
                self._credentials.row(new.credential) if new.credential is not None else None,
            )
            for new, sealed in arrivals
        ]
        return partial(accept_many, arrivals=encoded)

    async def find_keyed(self, owner: OwnerId, idempotency_key: str) -> Job | None:
        return await self._database.read(partial(find_keyed, owner=owner, key=idempotency_key))

    async def get(self, job_id: JobId) -> Job:
        job = await self._database.read(partial(find_job, job_id=job_id))
        if job is None:
            raise JobNotFoundError(job_id)
        return job

    async def get_many(self, job_ids: Sequence[JobId]) -> Sequence[Job]:
        return await self._database.read(partial(find_jobs, job_ids=job_ids))

    async def replace_many(self, writes: Sequence[JobWrite]) -> frozenset[JobId]:
        size = sum(len(write.result.body) for write in writes if write.result)
        encode = partial(self._encoded, writes)
        # What takes long to seal must not hold up the event loop.
        encoded = encode() if size <= SEAL_INLINE_BYTES else await asyncio.to_thread(encode)
        return await self._database.write(partial(replace_many, writes=encoded))

    def _encoded(self, writes: Sequence[JobWrite]) -> list[EncodedWrite]:
        answers = [
            (write.result.body, result_context(write.after.id)) for write in writes if write.result
        ]
        sealed = iter(self._vault.seal_many(answers))
        encoded = []
        for write in writes:
            after, result = write.after, write.result
            if result is None:
                encoded.append(EncodedWrite(after, encode_job(after), write.bookings))
                continue
            assert after.state.is_terminal, f"job {after.id} has a result and did not end"
            text = encode_ending(after)
            encoded.append(EncodedWrite(after, text, write.bookings, result, next(sealed)))
        return encoded

    async def body(self, job_id: JobId) -> bytes:
        body = await self._database.read(partial(_body, vault=self._vault, job_id=job_id))
        if body is None:
            raise JobNotFoundError(job_id)
        return body

    async def result(self, job_id: JobId) -> Result | None:
        return await self._database.read(partial(_result, vault=self._vault, job_id=job_id))

    async def list_jobs(
        self, owner: OwnerId, where: JobFilter, *, after: JobId | None, limit: int
    ) -> Sequence[Job | UnreadJob]:
        listing = Listing(owner, where, self._unread, after=after, limit=limit)
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


def open_payload(vault: Vault, job_id: JobId, sealed: bytes) -> bytes:
    """Return the body of the job's call."""
    return vault.open(sealed, context=payload_context(job_id))


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
        body=vault.open(sealed, context=result_context(job_id)),
        content_type=content_type,
        request_id=request_id,
    )


def _erase(connection: sqlite3.Connection, job_id: JobId) -> None:
    row = connection.execute(
        "SELECT num, state, EXISTS (SELECT 1 FROM results WHERE results.job = jobs.num)"
        " FROM jobs WHERE id = ? AND state <> 'erased'",
        (job_id,),
    ).fetchone()
    if row is not None:
        number, state, has_result = row
        assert has_result or state in TERMINAL, f"job {job_id} is {state} and cannot be erased"
        erase_job(connection, number)


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
    numbers = connection.execute(_ENDED, (before, before, limit)).fetchall()
    for number, _ in numbers:
        erase_job(connection, number)
    connection.execute("DELETE FROM owners WHERE jobs = 0")
    return len(numbers)
