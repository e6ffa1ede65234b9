"""Who waits for the answer about a job.

The deliveries of equal calls stand in the shard of their fingerprint, where most of
their jobs are made, and one script there finds and claims the best. Jobs that were
made under an idempotency key may be elsewhere; then each shard is asked first, and
the best one's script claims what is best by then.
"""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from proxy.core.errors import StoreCorruptError
from proxy.core.ids import JobId, OwnerId, shard_for, shard_of
from proxy.core.job import Job
from proxy.core.repeats import CLAIM_WINDOW, WAITER_LEASE, Answered
from proxy.ports.jobs import DeliveryNote
from proxy.stores.codec import to_micros
from proxy.stores.redis import delivery_scripts, keys
from proxy.stores.redis.client import Client
from proxy.stores.redis.commands import Command, read
from proxy.stores.redis.job_calls import call_digest, delivery_keys
from proxy.stores.redis.job_reads import stored_here
from proxy.stores.redis.records import parse_record
from proxy.stores.redis.replies import Reply, as_int, as_list, as_text

LOOK: Final = 1_000
"""Deliveries of equal calls that a script ranks, at most.

Beyond a thousand that are claimable at once, the oldest of the thousand whose leases
ended first is claimed.
"""

TRIES: Final = 5

EXPECTED: Final = 1_000
"""Jobs that are kept in mind, some 2 KB each. The records of others are read."""


class RedisDeliveryStore:
    """Waiters, their leases and who claims them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._accepted: OrderedDict[JobId, Job] = OrderedDict()

    def expect(self, job: Job) -> None:
        """Keep in mind a job that was accepted just now: most answers are out soon after."""
        self._accepted[job.id] = job
        if len(self._accepted) > EXPECTED:
            self._accepted.popitem(last=False)

    async def claim(
        self, owner: OwnerId, fingerprint: str, *, retry_count: int, now: datetime
    ) -> JobId | None:
        repeat = _Repeat(owner, call_digest(owner, fingerprint), retry_count, now)
        home = shard_for(fingerprint)
        outcome, text = as_list(await self._client.call(repeat.ask(home, "home")))
        if as_int(outcome) != 2:
            return _claimed(text)
        shards = sorted({home, *(as_int(shard) for shard in as_text(text).split())})
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
        places = await self._places(job_ids)
        await self._client.call_many(
            [
                delivery_scripts.RENEW.call(place.keys, *place.arguments, to_micros(until))
                for place in places.values()
            ]
        )

    async def finish(self, notes: Sequence[DeliveryNote]) -> None:
        places = await self._places([note.job_id for note in notes])
        await self._client.call_many(
            [
                delivery_scripts.FINISH.call(
                    places[note.job_id].keys,
                    *places[note.job_id].arguments,
                    (Answered.FLUSHED if note.flushed else Answered.BROKEN).value,
                    note.retry_count,
                )
                for note in notes
                if note.job_id in places
            ]
        )

    async def claimable_owners(self, *, now: datetime) -> frozenset[OwnerId]:
        replies = await self._client.call_many(
            [read("HKEYS", keys.waiting(shard)) for shard in keys.ALL_SHARDS]
        )
        # Rounded to seconds: an owner who is named too early asks once in vain.
        this_second = to_micros(now) // 1_000_000
        fields = (as_text(one).partition(" ") for reply in replies for one in as_list(reply))
        return frozenset(
            OwnerId(owner) for second, _, owner in fields if as_int(second or 0) <= this_second
        )

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
                found.append((as_int(tries), as_int(held), job[6:], shard))
        return [shard for *_, shard in sorted(found)]

    async def _places(self, job_ids: Sequence[JobId]) -> dict[JobId, "_Place"]:
        """Return of those jobs that there are where their deliveries stand."""
        places, unknown = {}, []
        for job_id in job_ids:
            job = self._accepted.get(job_id)
            if job is not None:
                places[job_id] = _Place.of(job)
            elif stored_here(job_id):
                unknown.append(job_id)
        replies = await self._client.call_many(
            [read("GET", keys.record(job_id)) for job_id in unknown]
        )
        for job_id, reply in zip(unknown, replies, strict=True):
            if reply is None:
                continue
            # One that cannot be read must not let the leases of all others end.
            with suppress(StoreCorruptError):
                places[job_id] = _Place.of(parse_record(reply)[1])
        return places


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the delivery of a job stands. It never changes."""

    keys: Sequence[str]
    arguments: tuple[JobId, OwnerId, int]

    @classmethod
    def of(cls, job: Job) -> "_Place":
        call = call_digest(job.owner, job.fingerprint)
        return cls(
            delivery_keys(shard_of(job.id), call),
            (job.id, job.owner, to_micros(job.accepted_at)),
        )


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
                *delivery_keys(shard, self.call),
                keys.elsewhere(shard, self.call),
            ],
            mode,
            self.owner,
            self.retry_count,
            to_micros(self.now),
            to_micros(self.now - CLAIM_WINDOW),
            to_micros(self.now + WAITER_LEASE),
            LOOK,
        )


def _claimed(reply: Reply) -> JobId | None:
    job = as_text(reply).rpartition(" ")[2]
    return JobId(job) if job else None
