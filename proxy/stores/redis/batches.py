"""Batches and their items."""

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime

from proxy.core.batch import Batch, BatchState
from proxy.core.chunks import chunked
from proxy.core.errors import StoreCorruptError
from proxy.core.ids import BatchId, JobId
from proxy.core.lanes import BatchKey
from proxy.core.plan import Head
from proxy.ports.batches import Claimed, ClaimLimits, Item, Line
from proxy.stores.codec import decode_batch, encode_batch, to_micros, to_micros_or
from proxy.stores.redis import batch_scripts, keys
from proxy.stores.redis.claim import Claim
from proxy.stores.redis.client import Client
from proxy.stores.redis.commands import Command, read, write
from proxy.stores.redis.items import Items
from proxy.stores.redis.queue import Heads, small_field
from proxy.stores.redis.replies import Reply, as_list, as_text
from proxy.stores.unread import Unread
from proxy.stores.vault import Vault

READ_CHUNK = 500

_Stored = tuple[Reply, BatchId]
"""What is stored under the ID of a batch, and the ID."""


class RedisBatchStore:
    """Durable batches, and what was claimed for them."""

    def __init__(self, client: Client, vault: Vault) -> None:
        self._client = client
        self._vault = vault
        self._heads = Heads(client)
        self._unread = Unread()

    async def heads(self) -> Sequence[Head]:
        return await self._heads.read()

    async def all_heads(self) -> Sequence[Head]:
        """Return what `heads` does, leaving none out.

        Raises:
            StoreCorruptError: if one cannot be read.
        """
        return await self._heads.read(all_of_them=True)

    async def add(self, batch: Batch) -> None:
        settled = batch.state is BatchState.SETTLED
        await self._client.call(
            batch_scripts.ADD_BATCH.call(
                [keys.BATCHES, keys.BATCHES_LIVE, keys.BATCHES_RECENT, keys.BATCHES_SETTLED],
                batch.id,
                _record(batch),
                to_micros(batch.created_at),
                to_micros_or(batch.settled_at, 0) if settled else "",
            )
        )

    async def get(self, batch_id: BatchId) -> Batch | None:
        return next((_parse(one) for _, one in await self._stored([batch_id])), None)

    async def replace(self, after: Batch) -> bool:
        outcome = as_text(await self._client.call(_replace_call(after, "")))
        if outcome == "open":
            # Every shard is closed to its claims before it is sealed: the other way round,
            # a slow claim could add a job that is not counted.
            await self._client.call_many(
                [
                    write("HSET", keys.sums(shard, after.id), "closed", 1)
                    for shard in keys.ALL_SHARDS
                ]
            )
            outcome = as_text(await self._client.call(_replace_call(after, "closed")))
        return outcome == "written"

    async def live(self) -> Sequence[Batch]:
        return _less_settled(self._unread.readable(await self._stored_live(), _parse))

    async def all_live(self) -> Sequence[Batch]:
        """Return what `live` does, leaving none out.

        Raises:
            StoreCorruptError: if one cannot be read.
        """
        return _less_settled(_parse(one) for _, one in await self._stored_live())

    async def recent(self, *, limit: int) -> Sequence[Batch]:
        if limit <= 0:
            return []
        ids = await self._client.call(read("ZREVRANGE", keys.BATCHES_RECENT, 0, limit - 1))
        stored = await self._stored([BatchId(as_text(one)) for one in as_list(ids)])
        return self._unread.readable(stored, _parse)

    async def claim(
        self, key: BatchKey, batch_id: BatchId, limits: ClaimLimits, *, ready_at: datetime
    ) -> Claimed:
        return await Claim(
            client=self._client,
            key=keys.key_digest(key),
            batch_id=batch_id,
            limits=limits,
            ready_at=to_micros(ready_at),
        ).run()

    async def note_size(self, key: BatchKey, *, small: bool) -> None:
        await self._client.call(
            batch_scripts.NOTE_SIZE.call([keys.SMALL], small_field(key), int(small))
        )

    def items(self, batch_id: BatchId) -> AsyncIterator[Sequence[Item]]:
        return self._items(batch_id).still_open()

    def lines(self, batch_id: BatchId) -> AsyncIterator[Sequence[Line]]:
        return self._items(batch_id).lines(self._vault)

    async def issued(
        self, batch_id: BatchId, custom_ids: Sequence[tuple[JobId, int]]
    ) -> frozenset[tuple[JobId, int]]:
        return await self._items(batch_id).issued(custom_ids)

    def open_items(self, batch_id: BatchId) -> AsyncIterator[Sequence[Item]]:
        return self._items(batch_id).still_open()

    async def lost(self) -> Sequence[BatchId]:
        replies = await self._client.call_many(
            [read("SMEMBERS", keys.filled(shard)) for shard in keys.ALL_SHARDS], background=True
        )
        # Asked for after the items were seen: a batch is there before it is filled.
        filled = sorted({as_text(one) for reply in replies for one in as_list(reply)})
        known = await self._client.call_many(
            [read("HEXISTS", keys.BATCHES, batch_id) for batch_id in filled], background=True
        )
        return [BatchId(one) for one, is_known in zip(filled, known, strict=True) if not is_known]

    async def unread(self) -> Sequence[BatchId]:
        unread = self._unread.unreadable(await self._stored_live(), _parse)
        return [BatchId(batch_id) for batch_id in unread]

    async def drop_items(self, batch_id: BatchId) -> None:
        await self._items(batch_id).drop()

    async def prune(self, *, settled_before: datetime, limit: int) -> int:
        before = f"({to_micros(settled_before)}"
        ids = as_list(
            await self._client.call(
                read("ZRANGE", keys.BATCHES_SETTLED, "-inf", before, "BYSCORE", "LIMIT", 0, limit)
            )
        )
        for one in ids:
            batch_id = as_text(one)
            await self.drop_items(BatchId(batch_id))
            # The index that leads here last: after a crash the next pass finds it again.
            await self._client.call_many(
                [
                    write("ZREM", keys.BATCHES_RECENT, batch_id),
                    write("ZREM", keys.BATCHES_LIVE, batch_id),
                    write("HDEL", keys.BATCHES, batch_id),
                    write("ZREM", keys.BATCHES_SETTLED, batch_id),
                ]
            )
        return len(ids)

    def _items(self, batch_id: BatchId) -> Items:
        return Items(self._client, batch_id)

    async def _stored_live(self) -> list[tuple[str, _Stored]]:
        ids = await self._client.call(read("ZRANGE", keys.BATCHES_LIVE, 0, -1))
        return await self._stored([BatchId(as_text(one)) for one in as_list(ids)])

    async def _stored(self, ids: Sequence[BatchId]) -> list[tuple[str, _Stored]]:
        found: list[tuple[str, _Stored]] = []
        for chunk in chunked(ids, READ_CHUNK):
            replies = as_list(await self._client.call(read("HMGET", keys.BATCHES, *chunk)))
            found += [
                (batch_id, (reply, batch_id))
                for reply, batch_id in zip(replies, chunk, strict=True)
                if reply is not None
            ]
        return found


def _record(batch: Batch) -> str:
    """Return version and state for scripts, and the batch."""
    return f"{batch.version} {batch.state} {encode_batch(batch)}"


def _parse(stored: _Stored) -> Batch:
    reply, batch_id = stored
    try:
        _, _, record = as_text(reply).split(" ", 2)
    except ValueError:
        raise StoreCorruptError("a stored batch cannot be read") from None
    batch = decode_batch(record)
    if batch.id != batch_id:
        raise StoreCorruptError(f"another batch stands where {batch_id} should")
    return batch


def _less_settled(batches: Iterable[Batch]) -> list[Batch]:
    return [batch for batch in batches if batch.state is not BatchState.SETTLED]


def _replace_call(after: Batch, closed: str) -> Command:
    return batch_scripts.REPLACE_BATCH.call(
        [keys.BATCHES, keys.BATCHES_LIVE, keys.BATCHES_SETTLED],
        after.id,
        after.version,
        after.state.value,
        _record(after),
        to_micros_or(after.settled_at, ""),
        closed,
    )
