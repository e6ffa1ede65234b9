"""Batches and their items."""

import json
import sqlite3
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Final, TypeVar

from pydantic_core import from_json

from proxy.core.batch import Batch
from proxy.core.chunks import chunked
from proxy.core.ids import BatchId, JobId
from proxy.core.lanes import BatchKey
from proxy.core.plan import Head
from proxy.ports.batches import Claimed, ClaimLimits, Item, Line
from proxy.stores.codec import decode_batch, encode_batch, to_micros, to_micros_or
from proxy.stores.sqlite.claim import ChunkSize, claim_chunk
from proxy.stores.sqlite.database import Database
from proxy.stores.sqlite.erase import drop_items
from proxy.stores.sqlite.jobs import open_payload
from proxy.stores.sqlite.queue import heads, note_size
from proxy.stores.unread import Unread
from proxy.stores.vault import Vault

T = TypeVar("T")
_Page = tuple[list[T], int]
"""What was found of the jobs that were wanted, and how many of these were looked at."""

CLAIM: Final = 2_000
"""Rows moved in one call, about."""

STREAM_CHUNK: Final = 1_000
STREAM_CHUNK_BYTES: Final = 1_000_000
DROP_CHUNK: Final = 500

_ORDER: Final = """
    SELECT json_group_array(job) FROM (
        SELECT job FROM items WHERE batch = (SELECT num FROM batches WHERE id = ?)
        ORDER BY affinity, job
    )
"""
"""In which a batch is submitted: sorted anew each time, which takes 30 ms for 50,000 items."""

_IS_OPEN: Final = """
    jobs.state = 'queued' AND items.attempt = jobs.attempt + 1
    AND NOT EXISTS (SELECT 1 FROM results WHERE results.job = items.job)
"""

# `CROSS JOIN` is SQLite's word for "in the order written": rows come in that of the list.
_WANTED: Final = """
    SELECT {columns}
    FROM json_each(?) AS wanted
    CROSS JOIN items ON items.batch = (SELECT num FROM batches WHERE id = ?)
        AND items.job = wanted.value
    CROSS JOIN {jobs} ON jobs.num = items.job
    WHERE {is_open}
"""
_ITEMS: Final = _WANTED.format(
    columns="items.job, jobs.id, items.attempt, items.bytes", jobs="jobs", is_open=_IS_OPEN
)
_LINES: Final = _WANTED.format(
    columns="wanted.key, jobs.id, items.attempt, payloads.body",
    jobs="payloads ON payloads.job = items.job CROSS JOIN jobs",
    is_open=_IS_OPEN,
)

_LIVE: Final = "WHERE state <> 'settled'"

_OPEN_ITEMS: Final = f"""
    SELECT items.job, jobs.id, items.attempt, items.bytes FROM items
    JOIN jobs ON jobs.num = items.job
    WHERE items.batch = (SELECT num FROM batches WHERE id = ?) AND items.job > ? AND {_IS_OPEN}
    ORDER BY items.job LIMIT ?
"""  # noqa: S608 - our own words


class SqliteBatchStore:
    """Durable batches, and what was claimed for them."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault
        self._claim_size = ChunkSize()
        self._unread = Unread()

    async def heads(self) -> Sequence[Head]:
        return await self._database.read(partial(heads, unread=self._unread))

    async def add(self, batch: Batch) -> None:
        await self._database.write(partial(_add, batch=batch, record=encode_batch(batch)))

    async def get(self, batch_id: BatchId) -> Batch | None:
        found = await self._database.read(
            partial(_select, where="WHERE id = ?", values=(batch_id,))
        )
        return decode_batch(found[0][1]) if found else None

    async def replace(self, after: Batch) -> bool:
        return await self._database.write(
            partial(_replace, after=after, record=encode_batch(after))
        )

    async def live(self) -> Sequence[Batch]:
        return await self._readable(f"{_LIVE} ORDER BY created, num")

    async def recent(self, *, limit: int) -> Sequence[Batch]:
        return await self._readable("ORDER BY created DESC, num DESC LIMIT ?", limit)

    async def claim(
        self, key: BatchKey, batch_id: BatchId, limits: ClaimLimits, *, ready_at: datetime
    ) -> Claimed:
        work = partial(
            claim_chunk,
            key=key,
            batch_id=batch_id,
            limits=limits,
            ready_at=ready_at,
            size=self._claim_size,
        )
        # Nothing relies on it before the batch is sealed, which is a durable write.
        claimed = await self._database.write(work, relaxed=True)
        enough = claimed.count + CLAIM
        while not claimed.complete and claimed.count < enough:
            claimed = await self._database.write(work, relaxed=True)
        return claimed

    async def note_size(self, key: BatchKey, *, small: bool) -> None:
        await self._database.write(partial(note_size, key=key, small=small))

    def items(self, batch_id: BatchId) -> AsyncIterator[Sequence[Item]]:
        return self._in_order(batch_id, _items)

    def lines(self, batch_id: BatchId) -> AsyncIterator[Sequence[Line]]:
        return self._in_order(batch_id, partial(_lines, vault=self._vault))

    async def issued(
        self, batch_id: BatchId, custom_ids: Sequence[tuple[JobId, int]]
    ) -> frozenset[tuple[JobId, int]]:
        issued: frozenset[tuple[JobId, int]] = frozenset()
        for chunk in chunked(custom_ids, STREAM_CHUNK):
            work = partial(_issued, batch_id=batch_id, custom_ids=chunk)
            issued |= await self._database.read(work)
        return issued

    async def open_items(self, batch_id: BatchId) -> AsyncIterator[Sequence[Item]]:
        items = await self._database.read(partial(_open_items, batch_id=batch_id, after=0))
        while items:
            yield items
            after = items[-1].seq
            items = await self._database.read(partial(_open_items, batch_id=batch_id, after=after))

    async def lost(self) -> Sequence[BatchId]:
        # A file that goes back to what it was does so as a whole.
        return []

    async def unread(self) -> Sequence[BatchId]:
        def read(connection: sqlite3.Connection) -> list[BatchId]:
            unread = self._unread.unreadable(_select(connection, _LIVE, ()), decode_batch)
            return [BatchId(batch_id) for batch_id in unread]

        return await self._database.read(read)

    async def drop_items(self, batch_id: BatchId) -> None:
        # In short steps, each whole: after a crash the rest is dropped by a repeat.
        work = partial(_drop_items, batch_id=batch_id)
        while await self._database.write(work, relaxed=True):
            pass

    async def prune(self, *, settled_before: datetime, limit: int) -> int:
        work = partial(_settled, before=to_micros(settled_before), limit=limit)
        settled = await self._database.read(work)
        for batch_id in settled:
            await self.drop_items(batch_id)
            await self._database.write(partial(_erase, batch_id=batch_id))
        return len(settled)

    async def _readable(self, where: str, *values: object) -> list[Batch]:
        def read(connection: sqlite3.Connection) -> list[Batch]:
            return self._unread.readable(_select(connection, where, values), decode_batch)

        return await self._database.read(read)

    async def _in_order(
        self, batch_id: BatchId, page: Callable[..., _Page[T]]
    ) -> AsyncIterator[Sequence[T]]:
        """Yield page after page, in the order of submission, each in a transaction of its own."""
        jobs = await self._database.read(partial(_order, batch_id=batch_id))
        at = 0
        while at < len(jobs):
            chunk, looked_at = await self._database.read(
                partial(page, batch_id=batch_id, jobs=jobs[at : at + STREAM_CHUNK].tolist())
            )
            if chunk:
                yield chunk
            at += looked_at


def _select(
    connection: sqlite3.Connection, where: str, values: tuple[object, ...]
) -> list[tuple[str, bytes]]:
    # As bytes: see `stores.sqlite.queue`.
    query = f"SELECT id, CAST(record AS BLOB) FROM batches {where}"  # noqa: S608
    return connection.execute(query, values).fetchall()


def _add(connection: sqlite3.Connection, batch: Batch, record: str) -> None:
    connection.execute(
        "INSERT INTO batches (id, state, version, created, settled, credential, record)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            batch.id,
            batch.state,
            batch.version,
            to_micros(batch.created_at),
            to_micros_or(batch.settled_at, None),
            batch.key.credential,
            record,
        ),
    )


def _replace(connection: sqlite3.Connection, after: Batch, record: str) -> bool:
    written = connection.execute(
        "UPDATE batches SET state = ?, version = ?, settled = ?, record = ?"
        " WHERE id = ? AND version = ? - 1",
        (
            after.state,
            after.version,
            to_micros_or(after.settled_at, None),
            record,
            after.id,
            after.version,
        ),
    )
    return written.rowcount == 1


def _order(connection: sqlite3.Connection, batch_id: BatchId) -> "array[int]":
    (jobs,) = connection.execute(_ORDER, (batch_id,)).fetchone()
    # Eight bytes for each, for as long as a batch of 50,000 is uploaded.
    return array("q", from_json(jobs))


def _items(connection: sqlite3.Connection, batch_id: BatchId, jobs: Sequence[int]) -> _Page[Item]:
    rows = connection.execute(_ITEMS, (json.dumps(jobs), batch_id))
    return [Item(*row) for row in rows], len(jobs)


def _lines(
    connection: sqlite3.Connection, vault: Vault, batch_id: BatchId, jobs: Sequence[int]
) -> _Page[Line]:
    lines: list[Line] = []
    size = 0
    rows = connection.execute(_LINES, (json.dumps(jobs), batch_id))
    for place, job_id, attempt, sealed in rows:
        body = open_payload(vault, job_id, sealed)
        lines.append(Line(job_id, attempt, body))
        size += len(body)
        if size >= STREAM_CHUNK_BYTES:
            return lines, place + 1
    return lines, len(jobs)


def _open_items(connection: sqlite3.Connection, batch_id: BatchId, after: int) -> list[Item]:
    rows = connection.execute(_OPEN_ITEMS, (batch_id, after, STREAM_CHUNK))
    return [Item(*row) for row in rows]


def _issued(
    connection: sqlite3.Connection, batch_id: BatchId, custom_ids: Sequence[tuple[JobId, int]]
) -> frozenset[tuple[JobId, int]]:
    return frozenset(
        (job_id, attempt)
        for job_id, attempt in custom_ids
        if connection.execute(
            "SELECT 1 FROM items WHERE job = (SELECT num FROM jobs WHERE id = ?) AND attempt = ?"
            " AND batch = (SELECT num FROM batches WHERE id = ?)",
            (job_id, attempt, batch_id),
        ).fetchone()
    )


def _drop_items(connection: sqlite3.Connection, batch_id: BatchId) -> int:
    row = connection.execute("SELECT num FROM batches WHERE id = ?", (batch_id,)).fetchone()
    return drop_items(connection, row[0], DROP_CHUNK) if row else 0


def _settled(connection: sqlite3.Connection, before: int, limit: int) -> list[BatchId]:
    rows = connection.execute(
        "SELECT id FROM batches WHERE settled < ? ORDER BY settled LIMIT ?", (before, limit)
    )
    return [BatchId(batch_id) for (batch_id,) in rows]


def _erase(connection: sqlite3.Connection, batch_id: BatchId) -> None:
    connection.execute("DELETE FROM batches WHERE id = ?", (batch_id,))
