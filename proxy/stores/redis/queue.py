"""The slim queue: what waits under each batch key, and its counters."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

import structlog

from proxy.core.errors import StoreCorruptError
from proxy.core.ids import CredentialId, JobId
from proxy.core.job import Job, JobState
from proxy.core.lanes import BatchKey
from proxy.core.plan import Head
from proxy.stores.codec import decode_key, from_micros, to_micros
from proxy.stores.redis import job_scripts, keys
from proxy.stores.redis.client import Client
from proxy.stores.redis.commands import read
from proxy.stores.redis.job_reads import find_readable
from proxy.stores.redis.merge import Front, Row, certain, parse_row, parse_rows, share
from proxy.stores.redis.replies import Reply, as_int, as_list, as_map, as_text
from proxy.stores.unread import Unread

LOOK: Final = 500
"""Rows that a script looks at, at most."""

COUNTERS: Final = 7
"""Of a queue in each shard."""

_ALWAYS: Final = 1 << 52

_UNREAD: Final = "the sums of a queue cannot be read"
_RECOUNTED: Final = "they were counted anew from what the queue holds"

log = structlog.get_logger()


class RedisQueueStore:
    """Jobs that wait to be called directly."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._unread = Unread()

    async def take(self, key: BatchKey, *, ready_at: datetime, limit: int) -> Sequence[Job]:
        return await self._near(key, before="+inf", ready_at=to_micros(ready_at), limit=limit)

    async def due(self, key: BatchKey, *, before: datetime, limit: int) -> Sequence[Job]:
        until = f"({to_micros(before)}"
        return await self._near(key, before=until, ready_at=_ALWAYS, limit=limit)

    async def escalating(self, *, limit: int) -> Sequence[Job]:
        replies = await self._client.call_many(
            [read("HKEYS", keys.escalating(shard)) for shard in keys.ALL_SHARDS], background=True
        )
        ids = [JobId(as_text(one)) for reply in replies for one in as_list(reply)][:limit]
        found = await find_readable(self._client, ids, self._unread)
        return [job for job in found if job.state is JobState.ESCALATING]

    async def _near(
        self, key: BatchKey, *, before: str, ready_at: int, limit: int
    ) -> Sequence[Job]:
        """Return jobs by deadline, from the fronts of all shards."""
        most = limit + self._unread.count
        name = keys.key_digest(key)
        looks = {shard: _Look() for shard in keys.ALL_SHARDS}
        while behind := _behind(looks, most):
            replies = await self._client.call_many(
                [
                    job_scripts.NEAR.call(
                        [keys.deadlines(shard, name)],
                        before,
                        ready_at,
                        looks[shard].offset,
                        share(most),
                        LOOK,
                    )
                    for shard in behind
                ]
            )
            for shard, reply in zip(behind, replies, strict=True):
                looks[shard] = looks[shard].further(reply)
        rows = certain(look.front for look in looks.values())[:most]
        job_ids = [JobId(job) for _, job in rows]
        found = await find_readable(self._client, job_ids, self._unread)
        # What a claim took in between is not to be called directly.
        queued = [job for job in found if job.state is JobState.QUEUED and job.key == key]
        return queued[:limit]


@dataclass(frozen=True, slots=True)
class _Look:
    """How far one shard was looked through."""

    rows: tuple[Row, ...] = ()
    offset: int = 0
    upto: Row | None = (-1, "")

    @property
    def front(self) -> Front[Row]:
        return Front(self.rows, self.upto)

    def further(self, reply: Reply) -> "_Look":
        looked, last, lines = as_list(reply)
        rows = (*self.rows, *parse_rows(lines))
        return _Look(rows, self.offset + as_int(looked), parse_row(last))


def _behind(looks: Mapping[int, _Look], limit: int) -> list[int]:
    """Return the shards that must be looked at further, if any."""
    if len(certain(look.front for look in looks.values())) >= limit:
        return []
    places = {shard: look.upto for shard, look in looks.items() if look.upto is not None}
    least = min(places.values(), default=None)
    return [shard for shard, place in places.items() if place == least]


class Heads:
    """Sums the counters of all shards up."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._unread = Unread()
        self._recounted: set[str] = set()
        self._keys: dict[str, BatchKey] = {}
        """Those of the last time, by their digests, each of which stands for one key for ever."""

    async def read(self, *, all_of_them: bool = False) -> list[Head]:
        """Return one row for each key that has queued jobs.

        Damaged counters are counted anew, once: left out, the jobs of a queue would never end.

        Raises:
            StoreCorruptError: if `all_of_them` are wanted, and a key cannot be read.
        """
        *shards, small, paused = await self._client.call_many(
            [
                *[job_scripts.HEADS.call([keys.heads(shard)]) for shard in keys.ALL_SHARDS],
                read("HGETALL", keys.SMALL),
                read("SMEMBERS", keys.PAUSED),
            ]
        )
        counts: dict[str, list[list[str]]] = {}
        for reply in shards:
            for line in as_text(reply).splitlines():
                name, *numbers = line.split(" ")
                counts.setdefault(name, []).append(numbers)
        damaged = {name for name, rows in counts.items() if not _are_counts(rows)}
        if damaged - self._recounted:
            await self._recount(damaged - self._recounted)
            return await self.read(all_of_them=all_of_them)
        batch_keys = self._keys = await self._known(counts, all_of_them=all_of_them)
        small_by_key = as_map(small)
        halted = {CredentialId(as_text(one)) for one in as_list(paused)}
        stored = [
            (f"queue {name}", (batch_keys[name], rows))
            for name, rows in counts.items()
            if name in batch_keys
        ]
        read_one = partial(_head, small=small_by_key, paused=halted)
        if all_of_them:
            return [read_one(one) for _, one in stored]
        return self._unread.readable(stored, read_one)

    async def _recount(self, names: Collection[str]) -> None:
        self._recounted.update(names)
        for name in sorted(names):
            await self._client.call_many(
                [
                    job_scripts.RECOUNT.call([keys.queue(shard, name), keys.heads(shard)], name)
                    for shard in keys.ALL_SHARDS
                ],
                background=True,
            )
            log.error("record.unread", subject=f"queue {name}", error=_UNREAD, hint=_RECOUNTED)

    async def _known(self, names: Collection[str], *, all_of_them: bool) -> dict[str, BatchKey]:
        """Return the keys of these names; those that are new since the last time are looked up."""
        found = {name: self._keys[name] for name in names if name in self._keys}
        unknown = [name for name in names if name not in found]
        if not unknown:
            return found
        replies = await self._client.call_many(
            [read("HMGET", keys.batch_keys(shard), *unknown) for shard in keys.ALL_SHARDS]
        )
        stored = {
            name: text
            for reply in replies
            for name, text in zip(unknown, as_list(reply), strict=True)
            if text is not None
        }
        if all_of_them:
            return found | dict(map(_name_and_key, stored.items()))
        named = ((f"queue {name}", (name, text)) for name, text in stored.items())
        return found | dict(self._unread.readable(named, _name_and_key))


def _name_and_key(stored: tuple[str, Reply]) -> tuple[str, BatchKey]:
    name, text = stored
    return name, decode_key(as_text(text))


def small_field(key: BatchKey) -> str:
    """Return where small batches of a key are counted."""
    return f"{key.credential} {keys.key_digest(key)}"


def _head(
    stored: tuple[BatchKey, Sequence[Sequence[str]]],
    *,
    small: Mapping[str, bytes],
    paused: set[CredentialId],
) -> Head:
    key, rows = stored
    if not _are_counts(rows):
        raise StoreCorruptError(_UNREAD)
    numbers = [[int(number) for number in row] for row in rows]
    count, size, tokens, held, oldest, newest, nearest = zip(*numbers, strict=True)
    return Head(
        key=key,
        count=sum(count),
        body_bytes=sum(size),
        tokens=sum(tokens),
        oldest_at=from_micros(min(oldest)),
        newest_at=from_micros(max(newest)),
        nearest_deadline=from_micros(min(nearest)),
        held=sum(held),
        small_batches=_small(small.get(small_field(key))),
        paused=key.credential in paused,
    )


def _are_counts(rows: Iterable[Sequence[str]]) -> bool:
    """Return whether these are the seven counters of a queue, of each shard that has some."""
    return all(len(row) == COUNTERS and all(map(str.isdigit, row)) for row in rows)


def _small(count: bytes | None) -> int:
    # It only tells how long to linger: damaged, it must hold up no queue.
    return int(count) if count is not None and count.isdigit() else 0
