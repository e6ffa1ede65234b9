"""Batches and their items."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Final, TypeVar

from proxy.core.batch import Batch
from proxy.core.ids import BatchId, JobId
from proxy.core.lanes import BatchKey
from proxy.core.plan import Head
from proxy.ports.batches import Claimed, ClaimLimits, Item, Line
from proxy.stores.codec import decode_batch, encode_batch, to_micros
from proxy.stores.sqlite.claim import ChunkSize, claim_chunk
from proxy.stores.sqlite.database import Database
from proxy.stores.sqlite.erase import drop_items
from proxy.stores.sqlite.jobs import open_payload
from proxy.stores.sqlite.queue import heads, note_size
from proxy.stores.vault import Vault

T = TypeVar("T")

CLAIM: Final = 2_000
"""Rows moved in one call, about."""

STREAM_CHUNK: Final = 1_000
STREAM_CHUNK_BYTES: Final = 1_000_000
DROP_CHUNK: Final = 500

_START: Final = ("", -1)

_OPEN: Final = """
    SELECT items.affinity, items.job, jobs.id, items.attempt, {size_or_body} FROM {items}
    JOIN jobs ON jobs.num = items.job
    WHERE items.batch = (SELECT num FROM batches WHERE id = ?)
    AND (items.affinity, items.job) > (?, ?)
    AND jobs.state = 'queued' AND items.attempt = jobs.attempt + 1
    AND NOT EXISTS (SELECT 1 FROM results WHERE results.job = items.job)
    ORDER BY items.affinity, items.job LIMIT ?
"""
_ITEMS: Final = _OPEN.format(size_or_body="items.bytes", items="items")
_LINES: Final = _OPEN.format(
    size_or_body="payloads.body", items="items JOIN payloads ON payloads.job = items.job"
)

Position = tuple[str, int]
Page = tuple[list[T], Position]


class SqliteBatchStore:
    """Durable batches, and what was claimed for them."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault
        self._claim_size = ChunkSize()

    async def heads(self) -> Sequence[Head]:
        return await self._database.read(heads)

    async def add(self, batch: Batch) -> None:
        await self._database.write(partial(_add, batch=batch, record=encode_batch(batch)))

    async def get(self, batch_id: BatchId) -> Batch | None:
        found = await self._select("WHERE id = ?", batch_id)
        return found[0] if found else None

    async def replace(self, after: Batch) -> bool:
        return await self._database.write(
            partial(_replace, after=after, record=encode_batch(after))
        )

    async def live(self) -> Sequence[Batch]:
        return await self._select("WHERE state <> 'settled' ORDER BY created, num")

    async def recent(self, *, limit: int) -> Sequence[Batch]:
        return await self._select("ORDER BY created DESC, num DESC LIMIT ?", limit)

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
        return self.open_items(batch_id)

    def lines(self, batch_id: BatchId) -> AsyncIterator[Sequence[Line]]:
        return self._stream(batch_id, partial(_lines, vault=self._vault))

    async def issued(
        self, batch_id: BatchId, custom_ids: Sequence[tuple[JobId, int]]
    ) -> frozenset[tuple[JobId, int]]:
        issued: frozenset[tuple[JobId, int]] = frozenset()
        for start in range(0, len(custom_ids), STREAM_CHUNK):
            chunk = custom_ids[start : start + STREAM_CHUNK]
            work = partial(_issued, batch_id=batch_id, custom_ids=chunk)
            issued |= await self._database.read(work)
        return issued

    def open_items(self, batch_id: BatchId) -> AsyncIterator[Sequence[Item]]:
        return self._stream(batch_id, _items)

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

    async def _select(self, where: str, *values: object) -> list[Batch]:
        def select(connection: sqlite3.Connection) -> list[Batch]:
            rows = connection.execute(f"SELECT record FROM batches {where}", values)  # noqa: S608
            return [decode_batch(record) for (record,) in rows]

        return await self._database.read(select)

    async def _stream(
        self, batch_id: BatchId, page: Callable[..., Page[T]]
    ) -> AsyncIterator[Sequence[T]]:
        """Yield page after page, each read in a transaction of its own."""
        position = _START
        while True:
            chunk, position = await self._database.read(
                partial(page, batch_id=batch_id, position=position)
            )
            if not chunk:
                return
            yield chunk


def _add(connection: sqlite3.Connection, batch: Batch, record: str) -> None:
    connection.execute(
        "INSERT INTO batches (id, state, version, created, settled, credential, record)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            batch.id,
            batch.state,
            batch.version,
            to_micros(batch.created_at),
            to_micros(batch.settled_at) if batch.settled_at else None,
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
            to_micros(after.settled_at) if after.settled_at else None,
            record,
            after.id,
            after.version,
        ),
    )
    return written.rowcount == 1


def _items(connection: sqlite3.Connection, batch_id: BatchId, position: Position) -> Page[Item]:
    rows = connection.execute(_ITEMS, (batch_id, *position, STREAM_CHUNK)).fetchall()
    items = [
        Item(number, JobId(job_id), attempt, size) for _, number, job_id, attempt, size in rows
    ]
    return items, rows[-1][:2] if rows else position


def _lines(
    connection: sqlite3.Connection, vault: Vault, batch_id: BatchId, position: Position
) -> Page[Line]:
    lines: list[Line] = []
    size = 0
    for affinity, number, job_id, attempt, sealed in connection.execute(
        _LINES, (batch_id, *position, STREAM_CHUNK)
    ):
        body = open_payload(vault, job_id, sealed)
        lines.append(Line(job_id, attempt, body))
        position = (affinity, number)
        size += len(body)
        if size >= STREAM_CHUNK_BYTES:
            break
    return lines, position


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
