"""The items of a batch: kept in every shard, and streamed in one order."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

from proxy.core.errors import StoreCorruptError
from proxy.core.ids import BatchId, JobId, shard_of
from proxy.core.job import JobState
from proxy.ports.batches import Item, Line
from proxy.stores.redis import batch_scripts, keys
from proxy.stores.redis.client import Client
from proxy.stores.redis.commands import read
from proxy.stores.redis.jobs import open_payload
from proxy.stores.redis.replies import Reply, as_int, as_list
from proxy.stores.vault import Vault

PAGE: Final = 1_000
LINES_BYTES: Final = 1_000_000

ROWS: Final = 500
"""Rows of one shard that are read at once: about 50 KB."""

DROP_CHUNK: Final = 200
KEEP_CLOSED_S: Final = 86_400
"""How long a shard remembers that a dropped batch takes nothing any more.

Longer than any instance could be suspended between planning a claim and sending it.
"""

_HEADER_BYTES: Final = 200
"""A record's first line is shorter."""


class Items:
    """The items of one batch."""

    def __init__(self, client: Client, batch_id: BatchId) -> None:
        self._client = client
        self._batch_id = batch_id

    async def still_open(self) -> AsyncIterator[list[Item]]:
        """Stream the items whose job is still `BATCHED` in this batch, in their order."""
        rows = await self._rows()
        for start in range(0, len(rows), PAGE):
            page = [
                _parse_item(seq, row)
                for seq, row in enumerate(rows[start : start + PAGE], start + 1)
            ]
            replies = await self._client.call_many(
                [read("GETRANGE", keys.record(item.job_id), 0, _HEADER_BYTES - 1) for item in page],
                background=True,
            )
            there = [
                item for item, reply in zip(page, replies, strict=True) if _is_open(reply, item)
            ]
            if there:
                yield there

    async def lines(self, vault: Vault) -> AsyncIterator[list[Line]]:
        """Stream the items that are still open, with their bodies."""
        async for page in self.still_open():
            for chunk in _by_size(page):
                found = await self._lines(chunk, vault)
                if found:
                    yield found

    async def drop(self) -> None:
        """Forget all items, in short steps, each whole: a repeat after a crash goes on."""
        shards: Sequence[int] = keys.ALL_SHARDS
        while shards:
            replies = await self._client.call_many(
                [
                    batch_scripts.DROP.call(
                        [
                            keys.items(shard, self._batch_id),
                            keys.claims(shard),
                            keys.sums(shard, self._batch_id),
                            keys.filled(shard),
                        ],
                        DROP_CHUNK,
                        KEEP_CLOSED_S,
                        self._batch_id,
                    )
                    for shard in shards
                ],
                background=True,
            )
            shards = [shard for shard, more in zip(shards, replies, strict=True) if as_int(more)]

    async def issued(self, custom_ids: Sequence[tuple[JobId, int]]) -> frozenset[tuple[JobId, int]]:
        """Return which of these names this batch issued."""
        replies = await self._client.call_many(
            [
                read("HGET", keys.claims(shard_of(job_id)), f"{job_id}-{attempt}")
                for job_id, attempt in custom_ids
            ],
            background=True,
        )
        mine = self._batch_id.encode()
        return frozenset(
            name for name, reply in zip(custom_ids, replies, strict=True) if reply == mine
        )

    async def _rows(self) -> list[bytes]:
        """Return all items in the order of submission: by affinity, then age.

        Put in order here and not by Redis: that would cost each claim more than it
        costs to sort some megabytes of rows.
        """
        rows: list[bytes] = []
        shards, start = list(keys.ALL_SHARDS), 0
        while shards:
            replies = await self._client.call_many(
                [
                    read("LRANGE", keys.items(shard, self._batch_id), start, start + ROWS - 1)
                    for shard in shards
                ],
                background=True,
            )
            found = [as_list(reply) for reply in replies]
            rows += [_sortable(row) for each in found for row in each]
            shards = [shard for shard, each in zip(shards, found, strict=True) if len(each) == ROWS]
            start += ROWS
        rows.sort()
        return rows

    async def _lines(self, items: Sequence[Item], vault: Vault) -> list[Line]:
        replies = await self._client.call_many(
            [read("GET", keys.payload(item.job_id)) for item in items], background=True
        )
        return [
            Line(item.job_id, item.attempt, open_payload(vault, item.job_id, reply))
            for item, reply in zip(items, replies, strict=True)
            if reply is not None
        ]


def _by_size(page: Sequence[Item]) -> list[list[Item]]:
    chunks: list[list[Item]] = [[]]
    size = 0
    for item in page:
        if chunks[-1] and size + item.body_bytes > LINES_BYTES:
            chunks.append([])
            size = 0
        chunks[-1].append(item)
        size += item.body_bytes
    return chunks


def _sortable(row: Reply) -> bytes:
    """Return affinity, readiness, then job, attempt and bytes of a queue's row."""
    if not isinstance(row, bytes):
        raise StoreCorruptError("a stored item cannot be read")
    try:
        job, attempt, size, _, _, _, ready, affinity = row.split(b" ", 7)
    except ValueError:
        raise StoreCorruptError("a stored item cannot be read") from None
    return b"%b\0%20b\0%b %b %b" % (affinity, ready, job, attempt, size)


def _parse_item(seq: int, row: bytes) -> Item:
    job, attempt, size = row[row.rindex(b"\0") + 1 :].decode("ascii").split(" ")
    return Item(seq, JobId(job), int(attempt), int(size))


def _is_open(header: Reply, item: Item) -> bool:
    if not isinstance(header, bytes):
        return False
    # What is no record of ours any more waits for nothing, and holds up no other job.
    _, state, attempt, *_ = (*header.split(b" ", 3), b"", b"")
    return state == JobState.QUEUED.value.encode() and attempt == b"%d" % (item.attempt - 1)
