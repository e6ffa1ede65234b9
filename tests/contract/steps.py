"""What the suites of the job store do again and again."""

from datetime import datetime, timedelta
from typing import Any

import pytest
import structlog

from proxy.core.batch import Batch
from proxy.core.errors import JobNotFoundError, StoreCorruptError
from proxy.core.ids import BatchId, JobId, OwnerId
from proxy.core.job import (
    Job,
    JobState,
    Outcome,
    Succeeded,
    advance,
)
from proxy.core.lanes import BatchKey
from proxy.ports.batches import ClaimLimits
from proxy.ports.jobs import JobFilter, JobWrite, Result, UnreadJob
from proxy.ports.stores import Stores
from tests.helpers.factories import OWNER, T0, make_batch, make_key, new_job

HOUR = timedelta(hours=1)
OTHER = OwnerId("owner-2")
PLENTY = ClaimLimits(max_requests=10_000, max_bytes=10**9)
ALL = JobFilter()
OK = Outcome(200, usage={"prompt_tokens": 7})
ANSWER = Result(status_code=200, body=b'{"id":"chatcmpl-1"}', request_id="req_1")


async def accepted(stores: Stores, **changes: Any) -> Job:
    return (await stores.jobs.accept(new_job(**changes))).job


async def claim(stores: Stores, key: BatchKey | None = None, **changes: Any) -> BatchId:
    """Put everything that waits under `key` into a new batch."""
    batch = make_batch(key=key or make_key(), **changes)
    await stores.batches.add(batch)
    claimed = await stores.batches.claim(batch.key, batch.id, PLENTY, ready_at=T0 + 99 * HOUR)
    assert claimed.complete
    return batch.id


async def assert_left_out(stores: Stores, damaged: Batch, other: Batch) -> None:
    """Of two batches one cannot be read: it is told of once, and holds up no other."""
    with structlog.testing.capture_logs() as said:
        assert await stores.batches.live() == [other]
        assert await stores.batches.recent(limit=9) == [other]
        assert await stores.batches.unread() == [damaged.id]

    assert [(line["event"], line["subject"]) for line in said] == [("record.unread", damaged.id)]
    with pytest.raises(StoreCorruptError):
        await stores.batches.get(damaged.id)


async def assert_stands_among(stores: Stores, damaged: JobId, older: JobId, newer: JobId) -> None:
    """Of three jobs of a list, the middle one cannot be read, and keeps its place."""
    with structlog.testing.capture_logs() as said:
        for where in (ALL, JobFilter(states=frozenset({JobState.QUEUED}))):
            jobs = await stores.jobs.list_jobs(OWNER, where, after=None, limit=9)
            assert [job.id for job in jobs] == [newer, damaged, older]
            assert [type(job) for job in jobs] == [Job, UnreadJob, Job]

    assert [(line["event"], line["subject"]) for line in said] == [("record.unread", damaged)]
    assert await listed(stores, after=newer, limit=1) == [damaged]
    assert await listed(stores, after=damaged) == [older]
    with pytest.raises(JobNotFoundError):
        await listed(stores, owner=OTHER, after=damaged)


async def write(stores: Stores, after: Job, result: Result | None = None) -> bool:
    return await stores.jobs.replace_many([JobWrite(after, result)]) == frozenset()


async def finished(stores: Stores, job: Job, *, at: datetime = T0) -> Job:
    after = advance(job, Succeeded(job.attempt, at, OK))
    assert await write(stores, after, ANSWER)
    return after


async def queued_counts(stores: Stores) -> dict[BatchKey, int]:
    return {head.key: head.count for head in await stores.batches.heads()}


async def listed(
    stores: Stores,
    where: JobFilter = ALL,
    *,
    owner: OwnerId = OWNER,
    after: JobId | None = None,
    limit: int = 100,
) -> list[JobId]:
    jobs = await stores.jobs.list_jobs(owner, where, after=after, limit=limit)
    return [job.id for job in jobs]
