"""Moving queue rows of all shards into a batch, the oldest first.

Each round reads the fronts of the shards, decides which rows are the oldest and fit,
and takes them by one short script for each shard. A script takes only what the plan
says, from the front, and is whole or not at all; so after a crash the next call finds
what was taken among the batch's sums and goes on.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from proxy.core.batch import BatchState
from proxy.core.ids import BatchId
from proxy.ports.batches import Claimed, ClaimLimits
from proxy.stores.codec import from_micros
from proxy.stores.redis import batch_scripts, keys
from proxy.stores.redis.client import Client
from proxy.stores.redis.commands import ScriptCall, read
from proxy.stores.redis.wire import Reply, as_int, as_list, as_text

CLAIM: Final = 2_000

FRONT: Final = 500
"""Rows that one script reads or takes, at most: about 1 ms."""

_NO_LIMIT: Final = 1 << 52


@dataclass(frozen=True, slots=True, order=True)
class _Waiting:
    """A row of a queue, as far as a claim must know it."""

    ready: int
    job: str
    shard: int
    body_bytes: int
    tokens: int


@dataclass(frozen=True, slots=True)
class _Front:
    held: Claimed
    """What the batch has of this shard."""

    rows: Sequence[_Waiting]
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One call of `claim`."""

    client: Client
    key: str
    batch_id: BatchId
    limits: ClaimLimits
    ready_at: int

    async def run(self) -> Claimed:
        """Take up to 2,000 rows; return what the batch holds then."""
        taken, each = 0, CLAIM * 2 // len(keys.ALL_SHARDS)
        shards: Sequence[int] = keys.ALL_SHARDS
        held: dict[int, Claimed] = {}
        while True:
            is_filling, fronts = await self._look(shards, each)
            held |= {shard: front.held for shard, front in fronts.items()}
            total = _total(held.values())
            if not is_filling:
                return replace(total, complete=True)
            plan, complete = _plan(fronts, total, self.limits, CLAIM - taken)
            missed = sum(map(len, plan.values()))
            for shard, got in (await self._take(plan)).items():
                held[shard] = _total([held[shard], got])
                taken += got.count
                missed -= got.count
            # What another claim or a cancel took away leaves room for others.
            complete = complete and not missed
            if complete or taken >= CLAIM:
                return replace(_total(held.values()), complete=complete)
            shards = [shard for shard, front in fronts.items() if front.more or front.rows]
            # Where few shards have any, each must give more.
            each = min(FRONT, (CLAIM - taken) * 2 // max(1, len(shards)) + 8)

    async def _look(self, shards: Sequence[int], each: int) -> tuple[bool, dict[int, _Front]]:
        record, *replies = await self.client.call_many(
            [
                read("HGET", keys.BATCHES, self.batch_id),
                *[
                    batch_scripts.PEEK.call(
                        [keys.queue(shard, self.key), keys.sums(shard, self.batch_id)],
                        self.ready_at,
                        min(each, FRONT),
                    )
                    for shard in shards
                ],
            ],
            background=True,
        )
        state = "" if record is None else as_text(record).split(" ", 2)[1]
        fronts = {
            shard: _parse_front(shard, reply) for shard, reply in zip(shards, replies, strict=True)
        }
        return state == BatchState.FILLING, fronts

    async def _take(self, plan: Mapping[int, Sequence[_Waiting]]) -> dict[int, Claimed]:
        replies = await self.client.call_many(
            [self._take_call(shard, rows) for shard, rows in plan.items()], background=True
        )
        return {
            shard: _parse_claimed(as_list(reply))
            for shard, reply in zip(plan, replies, strict=True)
        }

    def _take_call(self, shard: int, rows: Sequence[_Waiting]) -> ScriptCall:
        return batch_scripts.TAKE.call(
            [
                keys.queue(shard, self.key),
                keys.deadlines(shard, self.key),
                keys.heads(shard),
                keys.batch_keys(shard),
                keys.items(shard, self.batch_id),
                keys.claims(shard),
                keys.sums(shard, self.batch_id),
            ],
            self.key,
            self.batch_id,
            rows[-1].ready,
            rows[-1].job,
            len(rows),
            # What came in front of them since then must not push the batch over a limit.
            sum(row.body_bytes for row in rows),
            sum(row.tokens for row in rows),
        )


def _plan(
    fronts: Mapping[int, _Front], held: Claimed, limits: ClaimLimits, most: int
) -> tuple[dict[int, list[_Waiting]], bool]:
    """Return which rows to take of each shard, and whether that is all there is to take."""
    plan: dict[int, list[_Waiting]] = {}
    rows, is_all = _oldest(fronts)
    count, size, tokens = held.count, held.body_bytes, held.tokens
    max_tokens = _NO_LIMIT if limits.max_tokens is None else limits.max_tokens
    for place, row in enumerate(rows):
        if place >= most:
            return plan, False
        if count and (
            count >= limits.max_requests
            or size + row.body_bytes > limits.max_bytes
            or tokens + row.tokens > max_tokens
        ):
            return plan, True
        count, size, tokens = count + 1, size + row.body_bytes, tokens + row.tokens
        mine = plan.setdefault(row.shard, [])
        if len(mine) == FRONT:
            return plan, False
        mine.append(row)
    return plan, is_all or count >= limits.max_requests


def _oldest(fronts: Mapping[int, _Front]) -> tuple[list[_Waiting], bool]:
    """Return the rows that no unread row precedes, oldest first, and whether these are all."""
    rows = sorted(row for front in fronts.values() for row in front.rows)
    bounds = [front.rows[-1] for front in fronts.values() if front.more]
    if not bounds:
        return rows, True
    bound = min(bounds)
    return [row for row in rows if row <= bound], False


def _parse_front(shard: int, reply: Reply) -> _Front:
    *sums, more, lines = as_list(reply)
    rows = []
    for line in as_text(lines).splitlines():
        ready, job, size, tokens = line.split(" ")
        rows.append(_Waiting(int(ready), job, shard, int(size), int(tokens)))
    closed = sums.pop()
    # A shard that gives the batch nothing more has nothing for it.
    return _Front(_parse_claimed(sums), [] if closed else rows, bool(as_int(more)) and not closed)


def _parse_claimed(sums: Sequence[Reply]) -> Claimed:
    count, size, tokens, deadline = sums
    nearest = as_text(deadline)
    return Claimed(
        count=as_int(count),
        body_bytes=as_int(size),
        tokens=as_int(tokens),
        nearest_deadline=from_micros(int(nearest)) if nearest else None,
        complete=False,
    )


def _total(parts: Iterable[Claimed]) -> Claimed:
    parts = list(parts)
    deadlines = [part.nearest_deadline for part in parts if part.nearest_deadline is not None]
    return Claimed(
        count=sum(part.count for part in parts),
        body_bytes=sum(part.body_bytes for part in parts),
        tokens=sum(part.tokens for part in parts),
        nearest_deadline=min(deadlines, default=None),
        complete=False,
    )
