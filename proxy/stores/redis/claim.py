"""Moving queue rows of all shards into a batch, the oldest first.

As long as there is much room, each round asks every shard for one place of its queue
only: what is as old as the youngest of the first `n` of every shard is surely among the
oldest, and rows need not be read to be taken. Near the limit the fronts are read, and a
plan says which rows are the oldest and fit. Either way a script takes only from the
front and is whole or not at all; so after a crash the next call finds what was taken
among the batch's sums and goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from proxy.core.batch import BatchState
from proxy.core.errors import StoreCorruptError
from proxy.core.ids import BatchId
from proxy.ports.batches import Claimed, ClaimLimits
from proxy.stores.redis import batch_scripts, keys
from proxy.stores.redis.claim_plan import (
    Room,
    Shard,
    Waiting,
    parse_claimed,
    parse_front,
    parse_shard,
    plan,
    total,
)
from proxy.stores.redis.client import Client
from proxy.stores.redis.commands import Command, read
from proxy.stores.redis.merge import Front
from proxy.stores.redis.replies import Reply, as_list, as_text

CLAIM: Final = 20_000
"""Rows that one call takes before it returns, about."""

STEP: Final = 300
"""Rows that one script reads or takes, at most: about 1.5 ms."""

FEW: Final = 8
"""Rows of each shard; for fewer it is not worth finding out how far a step may go."""

_ALL_OF_IT: Final = ""
"""In the place of a job: behind all jobs of that moment. A text that sorts last would not do: Lua
compares by the locale that Redis was started with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One call of `claim`."""

    client: Client
    key: str
    batch_id: BatchId
    limits: ClaimLimits
    ready_at: int

    async def run(self) -> Claimed:
        """Take about 20,000 rows; return what the batch holds then.

        Most are taken in wide steps, each of what surely is among the oldest and
        fits; the last ones one by one, as a plan over all shards says.
        """
        rank = max(1, min(STEP, self.limits.max_requests // len(keys.ALL_SHARDS)))
        begun, is_stuck = -1, False
        while True:
            is_filling, shards = await self._look(rank)
            held = total(shard.held for shard in shards.values())
            begun = held.count if begun < 0 else begun
            waiting = {number: shard for number, shard in shards.items() if shard.ready}
            if not is_filling or not waiting:
                if is_filling and not held.count:
                    self._tell_of_blocked(shards)
                return replace(held, complete=True)
            if held.count - begun >= CLAIM:
                return held
            wide = self._width(held, waiting)
            if wide < FEW or is_stuck or self._is_one_too_large(held, waiting):
                exactly = await self._take_exactly(held, shards, sorted(waiting))
                if exactly.complete:
                    return exactly
                continue
            if wide < rank:
                # The places that were asked for are too far back; ask again.
                rank = wide
                continue
            is_stuck = not await self._take_widely(held, waiting, wide)

    def _tell_of_blocked(self, shards: Mapping[int, Shard]) -> None:
        """Raise the reason why the batch stays empty: it would be made in vain, again and again.

        Raises:
            StoreCorruptError: if what begins the queue of a shard cannot be read.
        """
        for number, shard in shards.items():
            if shard.is_blocked:
                raise StoreCorruptError(
                    "a row of a queue cannot be read",
                    hint=f"what is first in {keys.queue(number, self.key)} must be taken out",
                )

    def _width(self, held: Claimed, waiting: Mapping[int, Shard]) -> int:
        """Return how many rows every shard may give without the batch becoming too large."""
        room = Room.of(self.limits, held).part(len(waiting))
        count = sum(shard.count for shard in waiting.values())
        # Twice the mean: what is larger than that stops its shard's step early.
        size = 2 * sum(shard.body_bytes for shard in waiting.values()) // count
        tokens = 2 * sum(shard.tokens for shard in waiting.values()) // count
        return min(
            STEP,
            room.count,
            room.body_bytes // max(1, size),
            room.tokens // max(1, tokens),
        )

    def _is_one_too_large(self, held: Claimed, waiting: Mapping[int, Shard]) -> bool:
        """Return whether a row that is the next of its shard is too large for a wide step.

        It would hold its shard up until the others, however young, had filled the batch, and the
        next one, and so on.
        """
        part = Room.of(self.limits, held).part(len(waiting))
        return any(
            shard.next_bytes > part.body_bytes or shard.next_tokens > part.tokens
            for shard in waiting.values()
        )

    async def _take_widely(self, held: Claimed, waiting: Mapping[int, Shard], rank: int) -> int:
        """Take what is as old as the youngest row that surely is among the oldest."""
        places = [shard.at for shard in waiting.values() if shard.at is not None]
        upto = min(places, default=self.ready_at)
        room = Room.of(self.limits, held).part(len(waiting))
        replies = await self.client.call_many(
            [
                self._take_call(shard, upto, _ALL_OF_IT, replace(room, count=rank))
                for shard in waiting
            ],
            background=True,
        )
        return sum(parse_claimed(as_list(reply)).count for reply in replies)

    async def _take_exactly(
        self, held: Claimed, shards: Mapping[int, Shard], waiting: Sequence[int]
    ) -> Claimed:
        """Take the oldest rows one by one until one does not fit, or none is left."""
        by_shard = {number: shard.held for number, shard in shards.items()}
        taken, each = 0, 4 * FEW
        while True:
            fronts = await self._peek(waiting, each)
            planned, complete = plan(fronts.values(), held, self.limits)
            got = await self._take(planned)
            for shard, part in got.items():
                by_shard[shard] = total([by_shard[shard], part])
            held = total(by_shard.values())
            came = sum(part.count for part in got.values())
            taken += came
            # What another claim or a cancel took away leaves room for others.
            complete = complete and came == sum(map(len, planned.values()))
            # Where nothing came, another claim was faster, or the shards are closed, by one that
            # died before it sealed the batch: whoever looks again finds out.
            if complete or not came or taken >= CLAIM or not await self._is_filling():
                return replace(held, complete=complete)
            waiting = [shard for shard, front in fronts.items() if front.rows]
            # Where few shards have any, each must give more.
            each = min(STEP, each * 2)

    async def _look(self, rank: int) -> tuple[bool, dict[int, Shard]]:
        """Return whether the batch takes jobs, and how every shard stands."""
        record, *replies = await self.client.call_many(
            [
                read("HGET", keys.BATCHES, self.batch_id),
                *[
                    batch_scripts.LOOK.call(
                        [
                            keys.queue(shard, self.key),
                            keys.sums(shard, self.batch_id),
                            keys.heads(shard),
                        ],
                        *(self.ready_at, rank, self.key),
                    )
                    for shard in keys.ALL_SHARDS
                ],
            ],
            background=True,
        )
        return _is_filling(record), dict(enumerate(map(parse_shard, replies)))

    async def _is_filling(self) -> bool:
        return _is_filling(await self.client.call(read("HGET", keys.BATCHES, self.batch_id)))

    async def _peek(self, shards: Sequence[int], each: int) -> dict[int, Front[Waiting]]:
        replies = await self.client.call_many(
            [
                batch_scripts.PEEK.call([keys.queue(shard, self.key)], self.ready_at, each)
                for shard in shards
            ],
            background=True,
        )
        return {
            shard: parse_front(shard, reply, each)
            for shard, reply in zip(shards, replies, strict=True)
        }

    async def _take(self, planned: Mapping[int, Sequence[Waiting]]) -> dict[int, Claimed]:
        replies = await self.client.call_many(
            [
                self._take_call(
                    shard,
                    rows[-1].ready,
                    rows[-1].job,
                    # What came in front of them since then must not push the batch over
                    # a limit.
                    Room(
                        len(rows),
                        sum(row.body_bytes for row in rows),
                        sum(row.tokens for row in rows),
                    ),
                )
                for shard, rows in planned.items()
            ],
            background=True,
        )
        return {
            shard: parse_claimed(as_list(reply))
            for shard, reply in zip(planned, replies, strict=True)
        }

    def _take_call(self, shard: int, ready: int, job: str, room: Room) -> Command:
        return batch_scripts.TAKE.call(
            [
                keys.queue(shard, self.key),
                keys.deadlines(shard, self.key),
                keys.heads(shard),
                keys.batch_keys(shard),
                keys.items(shard, self.batch_id),
                keys.claims(shard),
                keys.sums(shard, self.batch_id),
                keys.filled(shard),
            ],
            *(self.key, self.batch_id, ready, job, room.count, room.body_bytes, room.tokens),
        )


def _is_filling(record: Reply) -> bool:
    return record is not None and as_text(record).split(" ")[1:2] == [BatchState.FILLING]
