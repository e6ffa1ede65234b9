"""What goes when a job goes."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final

from proxy.core.errors import StoreCorruptError, StoreUnavailableError
from proxy.core.ids import JobId, shard_of
from proxy.core.job import TERMINAL, JobState
from proxy.stores.codec import to_micros
from proxy.stores.redis import job_scripts, keys
from proxy.stores.redis.client import Client
from proxy.stores.redis.commands import Command, read, write
from proxy.stores.redis.job_calls import call_digest, delivery_keys, notice_keys, tag_keys
from proxy.stores.redis.merge import certain, fronts_of, share
from proxy.stores.redis.records import NOTHING, parse_record
from proxy.stores.redis.replies import Reply, as_int

PRUNE_CHUNK: Final = 200

TRIES: Final = 20


async def erase_job(client: Client, job_id: JobId) -> None:
    """Erase a terminal job and all that points at it, claims apart.

    The claims stay in the items of its batch until those are dropped.
    """
    for _ in range(TRIES):
        record = await client.call(read("GET", keys.record(job_id)))
        if record is None:
            return
        call, state = _erase_call(job_id, record)
        assert state in TERMINAL, f"job {job_id} is {state} and cannot be erased"
        if as_int(await client.call(call)) >= 0:
            return
    raise StoreUnavailableError("a job moves faster than it can be erased")


async def prune_jobs(client: Client, finalized_before: datetime, limit: int) -> int:
    """Erase up to `limit` jobs that ended before, oldest first; return how many."""
    pruned = 0
    while pruned < limit:
        ids, more = await _ended(client, finalized_before, min(PRUNE_CHUNK, limit - pruned))
        pruned += await _erase_many(client, ids)
        if not more or not ids:
            # Without any, what is no job stands before all others.
            break
    return pruned


async def _ended(client: Client, before: datetime, limit: int) -> tuple[list[JobId], bool]:
    """Return the first that ended, and whether there may be more."""
    each = share(limit)
    names = [keys.ended(shard) for shard in keys.ALL_SHARDS]
    fronts = await fronts_of(client, names, upto=f"({to_micros(before)}", each=each)
    rows = certain(fronts)
    more = len(rows) > limit or any(front.upto is not None for front in fronts)
    return [JobId(job) for _, job in rows[:limit]], more


async def _erase_many(client: Client, job_ids: Sequence[JobId]) -> int:
    """Erase terminal jobs; return how many there were."""
    records = await client.call_many(
        [read("GET", keys.record(job_id)) for job_id in job_ids], background=True
    )
    calls = [
        call
        for job_id, record in zip(job_ids, records, strict=True)
        for call in _erase_calls(job_id, record)
    ]
    await client.call_many(calls, background=True)
    return len(job_ids)


def _erase_calls(job_id: JobId, record: Reply) -> list[Command]:
    if record is not None:
        with suppress(StoreCorruptError):
            return [_erase_call(job_id, record)[0]]
    # It is lost, or cannot be read, and must not keep the others from being erased. Which
    # lists name it is not known then.
    return [
        write("DEL", keys.record(job_id), keys.payload(job_id), keys.result(job_id)),
        write("ZREM", keys.ended(shard_of(job_id)), job_id),
    ]


def _erase_call(job_id: JobId, record: Reply) -> tuple[Command, JobState]:
    header, job = parse_record(record)
    shard = shard_of(job_id)
    place = "" if header.idempotency == NOTHING else header.idempotency
    call = job_scripts.ERASE.call(
        [
            keys.record(job_id),
            keys.payload(job_id),
            keys.result(job_id),
            keys.ended(shard),
            keys.idempotency(shard),
            *delivery_keys(shard, call_digest(job.owner, job.fingerprint)),
            keys.notices(shard),
            keys.listed(shard, job.owner, header.state),
            *tag_keys(job),
            *notice_keys(job),
        ],
        job_id,
        job.owner,
        to_micros(job.accepted_at),
        str(header),
        place,
    )
    return call, job.state
