"""What the suites of the batch store do again and again."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from proxy.core.ids import BatchId, JobId
from proxy.core.job import (
    CancelRequested,
    advance,
)
from proxy.core.lanes import BatchKey
from proxy.ports.batches import Claimed, ClaimLimits, Item, Line
from proxy.ports.jobs import JobWrite
from proxy.ports.stores import Stores
from tests.helpers.factories import (
    T0,
    make_batch,
    make_key,
)

T = TypeVar("T")

HOUR = timedelta(hours=1)
KEY = make_key()


def limits(**changes: Any) -> ClaimLimits:
    return ClaimLimits(**({"max_requests": 10_000, "max_bytes": 10**9} | changes))


async def filling(stores: Stores, **changes: Any) -> BatchId:
    batch = make_batch(**changes)
    await stores.batches.add(batch)
    return batch.id


async def claim(
    stores: Stores,
    batch_id: BatchId,
    *,
    key: BatchKey = KEY,
    ready_at: datetime = T0,
    **changes: Any,
) -> Claimed:
    return await stores.batches.claim(key, batch_id, limits(**changes), ready_at=ready_at)


async def cancel(stores: Stores, job_id: JobId) -> None:
    after = advance(await stores.jobs.get(job_id), CancelRequested(T0))
    assert await stores.jobs.replace_many([JobWrite(after)]) == frozenset()


async def listed(stream: AsyncIterator[Sequence[T]]) -> list[T]:
    return [one for page in [page async for page in stream] for one in page]


async def ids(stream: AsyncIterator[Sequence[Item | Line]]) -> list[JobId]:
    return [one.job_id for one in await listed(stream)]
