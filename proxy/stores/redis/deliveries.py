"""Who waits for the answer about a job.

The deliveries of equal calls stand in the shard of their fingerprint, where most of
their jobs are made, and one script there finds and claims the best. Jobs that were
made under an idempotency key may be elsewhere; then each shard is asked first, and
the best one's script claims what is best by then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from proxy.core.ids import JobId, OwnerId, shard_for, shard_of
from proxy.core.repeats import CLAIM_WINDOW, WAITER_LEASE, Answered
from proxy.ports.jobs import DeliveryNote
from proxy.stores.codec import to_micros
from proxy.stores.redis import delivery_scripts, keys
from proxy.stores.redis.client import Client
from proxy.stores.redis.commands import Command, read
from proxy.stores.redis.rows import call_digest, delivery_keys, stored_here
from proxy.stores.redis.wire import Reply, as_int, as_list, as_text

LOOK: Final = 1_000
"""Deliveries of equal calls that a script ranks, at most.

Beyond a thousand that are claimable at once, the oldest of the thousand whose leases
ended first is claimed.
"""

TRIES: Final = 5


class RedisDeliveryStore:
    """Waiters, their leases and who claims them."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def claim(
        self, owner: OwnerId, fingerprint: str, *, retry_count: int, now: datetime
    ) -> JobId | None:
        repeat = _Repeat(owner, call_digest(owner, fingerprint), retry_count, now)
        home = shard_for(fingerprint)
        outcome, text = as_list(await self._client.call(repeat.ask(home, "home")))
        if as_int(outcome) != 2:
            return _claimed(text)
        shards = sorted({home, *(int(shard) for shard in as_text(text).split())})
        for _ in range(TRIES):
            ranked = await self._ranked(repeat, shards)
            for shard in ranked:
                _, claimed = as_list(await self._client.call(repeat.ask(shard, "claim")))
                job_id = _claimed(claimed)
                # Another repeat may have been faster; then the second best may be left.
                if job_id is not None:
                    return job_id
            if not ranked:
                break
        return None

    async def renew(self, job_ids: Sequence[JobId], *, until: datetime) -> None:
        calls = [
            delivery_scripts.RENEW.call(
                delivery_keys(shard_of(job_id), owner, call),
                *(job_id, owner, call, to_micros(until)),
            )
            for job_id, owner, call in await self._places(job_ids)
        ]
        await self._client.call_many(calls)

    async def finish(self, notes: Sequence[DeliveryNote]) -> None:
        places = await self._places([note.job_id for note in notes])
        known = {job_id: (owner, call) for job_id, owner, call in places}
        await self._client.call_many(
            [
                delivery_scripts.FINISH.call(
                    delivery_keys(shard_of(note.job_id), *known[note.job_id]),
                    *(note.job_id, *known[note.job_id]),
                    (Answered.FLUSHED if note.flushed else Answered.BROKEN).value,
                    note.retry_count,
                )
                for note in notes
                if note.job_id in known
            ]
        )

    async def claimable_owners(self, *, now: datetime) -> frozenset[OwnerId]:
        replies = await self._client.call_many(
            [
                read("ZRANGE", keys.waiting(shard), "-inf", to_micros(now), "BYSCORE")
                for shard in keys.ALL_SHARDS
            ]
        )
        return frozenset(OwnerId(as_text(one)) for reply in replies for one in as_list(reply))

    async def _ranked(self, repeat: "_Repeat", shards: Sequence[int]) -> list[int]:
        """Return the shards with a claimable job, that with the best and oldest first."""
        replies = await self._client.call_many([repeat.ask(shard, "peek") for shard in shards])
        found = []
        for shard, reply in zip(shards, replies, strict=True):
            _, text = as_list(reply)
            tries, _, rest = as_text(text).partition(" ")
            held, _, job = rest.partition(" ")
            if job:
                # An ID sorts by time within its shard: less the shard, everywhere.
                found.append((int(tries), int(held), job[6:], shard))
        return [shard for *_, shard in sorted(found)]

    async def _places(self, job_ids: Sequence[JobId]) -> list[tuple[JobId, OwnerId, str]]:
        """Return owner and call of those jobs that have a delivery; they never change."""
        ours = [job_id for job_id in job_ids if stored_here(job_id)]
        replies = await self._client.call_many(
            [read("HGET", keys.deliveries(shard_of(job_id)), job_id) for job_id in ours]
        )
        places = []
        for job_id, reply in zip(ours, replies, strict=True):
            if reply is not None:
                *_, call, owner = as_text(reply).split(" ", 5)
                places.append((job_id, OwnerId(owner), call))
        return places


@dataclass(frozen=True, slots=True)
class _Repeat:
    """A call that may be the repeat of another."""

    owner: OwnerId
    call: str
    retry_count: int
    now: datetime

    def ask(self, shard: int, mode: str) -> Command:
        """Return the command that ranks the deliveries of one shard."""
        return delivery_scripts.CLAIM_CALL.call(
            [
                *delivery_keys(shard, self.owner, self.call),
                keys.elsewhere(shard, self.call),
            ],
            mode,
            self.owner,
            self.call,
            self.retry_count,
            to_micros(self.now),
            to_micros(self.now - CLAIM_WINDOW),
            to_micros(self.now + WAITER_LEASE),
            LOOK,
        )


def _claimed(reply: Reply) -> JobId | None:
    job = as_text(reply).rpartition(" ")[2]
    return JobId(job) if job else None
