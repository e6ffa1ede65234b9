"""What every `NoticeStore` must do, and every `JobStore` for it."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from proxy.core.job import CancelRequested, DeadlinePassed, Failed, Job, Outcome, Succeeded, advance
from proxy.core.notices import Notice
from proxy.ports.jobs import JobWrite
from proxy.ports.notices import Standing
from proxy.ports.stores import Stores
from tests.contract.steps import ANSWER, HOUR, OK, accepted, claim, finished, write
from tests.helpers.factories import T0

MINUTE = timedelta(minutes=1)
LEASE = timedelta(minutes=2)


async def ended(stores: Stores, *, at=T0, webhook: str | None = "done") -> Job:
    return await finished(stores, await accepted(stores, webhook=webhook), at=at)


async def taken(stores: Stores, *, now=T0, webhook: str = "done", limit: int = 9) -> list[Notice]:
    found = await stores.notices.take(webhook, now=now, until=now + LEASE, limit=limit)
    return list(found)


def owed(job: Job, *, attempts: int = 0) -> Notice:
    assert job.webhook is not None
    assert job.finalized_at is not None
    return Notice(
        job_id=job.id, webhook=job.webhook, owed_since=job.finalized_at, attempts=attempts
    )


async def test_the_end_of_a_job_makes_its_notice(stores):
    job = await ended(stores)

    assert await taken(stores) == [owed(job)]


@pytest.mark.parametrize(
    "event",
    [
        Succeeded(0, T0, OK),
        Failed(0, T0, Outcome(400)),
        DeadlinePassed(T0),
        CancelRequested(T0),
    ],
)
async def test_every_way_to_end_makes_one(stores, event):
    job = await accepted(stores, webhook="done")

    await write(stores, advance(job, event))

    assert [notice.job_id for notice in await taken(stores)] == [job.id]


async def test_the_end_within_a_batch_makes_one(stores):
    job = await accepted(stores, webhook="done")
    await claim(stores)
    batched = await stores.jobs.get(job.id)

    assert await write(stores, advance(batched, Succeeded(1, T0, OK)), ANSWER)

    assert [notice.job_id for notice in await taken(stores)] == [job.id]


async def test_many_ends_at_one_moment_make_as_many(stores):
    jobs = [await accepted(stores, webhook="done") for _ in range(120)]
    writes = [JobWrite(advance(job, Succeeded(0, T0, OK))) for job in jobs]
    for start in (0, 60):
        assert not await stores.jobs.replace_many(writes[start : start + 60])

    found: list[Notice] = []
    while some := await taken(stores, limit=50):
        found += some
    assert sorted(notice.job_id for notice in found) == sorted(job.id for job in jobs)


async def test_no_notice_without_a_webhook_or_without_an_end(stores):
    await ended(stores, webhook=None)
    await accepted(stores, webhook="done")

    assert await taken(stores) == []
    assert (await stores.notices.standing(["done"]))["done"] == Standing()


async def test_a_refused_write_makes_none(stores):
    job = await accepted(stores, webhook="done")
    stale = replace(advance(job, Succeeded(0, T0, OK)), version=job.version + 2)

    assert not await write(stores, stale)

    assert await taken(stores) == []


async def test_what_was_taken_is_nobody_elses_for_a_while(stores):
    job = await ended(stores)
    await taken(stores)

    assert await taken(stores, now=T0 + LEASE - MINUTE) == []
    assert await taken(stores, now=T0 + LEASE) == [owed(job)]


async def test_of_takers_at_one_moment_each_gets_what_no_other_does(stores):
    jobs = [await ended(stores) for _ in range(12)]

    ids: list[str] = []
    while found := [
        notice.job_id
        for some in await asyncio.gather(*(taken(stores, limit=12) for _ in range(4)))
        for notice in some
    ]:
        ids += found
    assert sorted(ids) == sorted(job.id for job in jobs)


async def test_the_longest_due_come_first_and_no_more_than_asked_for(stores):
    young = await ended(stores, at=T0 + MINUTE)
    old = await ended(stores, at=T0 - MINUTE)
    middle = await ended(stores, at=T0)

    assert await taken(stores, now=T0 + HOUR, limit=2) == [owed(old), owed(middle)]
    assert await taken(stores, now=T0 + HOUR, limit=2) == [owed(young)]


async def test_nothing_is_taken_before_it_is_due(stores):
    await ended(stores, at=T0 + MINUTE)

    assert await taken(stores, now=T0) == []


async def test_each_webhook_has_notices_of_its_own(stores):
    here, there = await ended(stores), await ended(stores, webhook="other")

    assert await taken(stores, webhook="other") == [owed(there)]
    assert await taken(stores) == [owed(here)]


async def test_a_delivered_notice_is_gone_and_counted(stores):
    await ended(stores)
    (notice,) = await taken(stores)

    await stores.notices.delivered(notice, at=T0 + MINUTE)

    assert await taken(stores, now=T0 + HOUR) == []
    standing = (await stores.notices.standing(["done"]))["done"]
    assert standing == Standing(delivered=1, delivered_at=T0 + MINUTE)


async def test_a_failed_attempt_is_due_again_later(stores):
    job = await ended(stores)
    (notice,) = await taken(stores)

    await stores.notices.failed(notice, at=T0, failure="broken", again_at=T0 + HOUR)

    assert await taken(stores, now=T0 + HOUR - MINUTE) == []
    assert await taken(stores, now=T0 + HOUR) == [owed(job, attempts=1)]
    assert (await stores.notices.standing(["done"]))["done"] == Standing(
        pending=1, failed=1, failed_at=T0, last_failure="broken"
    )


async def test_a_notice_that_was_given_up_is_kept_and_never_due(stores):
    await ended(stores)
    (notice,) = await taken(stores)

    await stores.notices.failed(notice, at=T0, failure="gone", again_at=None)

    assert await taken(stores, now=T0 + 9000 * HOUR) == []
    standing = (await stores.notices.standing(["done"]))["done"]
    assert (standing.pending, standing.given_up) == (0, 1)


async def test_what_was_given_up_is_revived_for_its_webhook_alone(stores):
    jobs = [await ended(stores) for _ in range(3)]
    other = await ended(stores, webhook="other")
    await ended(stores, at=T0 + 2 * HOUR)
    for notice in (*await taken(stores), *await taken(stores, webhook="other")):
        await stores.notices.failed(notice, at=T0, failure="gone", again_at=None)

    assert await stores.notices.revive("done", at=T0 + HOUR) == 3

    assert await taken(stores, now=T0 + HOUR - MINUTE) == []
    found = await taken(stores, now=T0 + HOUR)
    assert sorted(found, key=str) == sorted(map(owed, jobs), key=str)
    standing = await stores.notices.standing(["done", "other"])
    assert (standing["done"].given_up, standing["other"].given_up) == (0, 1)
    assert other.id not in {notice.job_id for notice in found}
    assert await stores.notices.revive("done", at=T0) == 0


async def test_the_late_failure_of_an_attempt_that_was_repeated_changes_nothing(stores):
    job = await ended(stores)
    (slow,) = await taken(stores)
    (quick,) = await taken(stores, now=T0 + LEASE)
    await stores.notices.failed(quick, at=T0, failure="broken", again_at=T0 + HOUR)

    await stores.notices.failed(slow, at=T0, failure="timed_out", again_at=None)

    assert await taken(stores, now=T0 + HOUR) == [owed(job, attempts=1)]
    standing = (await stores.notices.standing(["done"]))["done"]
    assert (standing.failed, standing.last_failure) == (1, "broken")


async def test_a_failure_after_a_delivery_brings_nothing_back(stores):
    await ended(stores)
    (notice,) = await taken(stores)
    await stores.notices.delivered(notice, at=T0)

    await stores.notices.failed(notice, at=T0, failure="broken", again_at=T0)

    assert await taken(stores, now=T0 + HOUR) == []
    assert (await stores.notices.standing(["done"]))["done"].failed == 0


async def test_a_forgotten_notice_is_gone_and_counts_for_nothing(stores):
    await ended(stores)
    (notice,) = await taken(stores)

    await stores.notices.forget(notice)

    assert await taken(stores, now=T0 + HOUR) == []
    assert (await stores.notices.standing(["done"]))["done"] == Standing()


@pytest.mark.parametrize("given_up", [False, True])
async def test_a_notice_goes_with_its_job(stores, given_up):
    job = await ended(stores)
    (notice,) = await taken(stores)
    if given_up:
        await stores.notices.failed(notice, at=T0, failure="gone", again_at=None)

    await stores.jobs.erase(job.id)

    assert await taken(stores, now=T0 + HOUR) == []
    standing = (await stores.notices.standing(["done"]))["done"]
    assert (standing.pending, standing.given_up) == (0, 0)


async def test_pruned_jobs_take_their_notices_with_them(stores):
    await ended(stores)

    assert await stores.jobs.prune(finalized_before=T0 + HOUR, limit=9) == 1

    assert await taken(stores, now=T0 + HOUR) == []
