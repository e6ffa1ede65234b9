"""Jobs whose calls were forwarded after all are taken back, once the store tells of them."""

from datetime import timedelta

import pytest

from proxy.core.errors import StoreUnavailableError
from proxy.core.ids import JobId
from proxy.core.job import JobState
from proxy.core.ledger import Sums
from proxy.services.deferral.repeats import Repeats
from proxy.services.deferral.withdraw import LOOKED_FOR, REMEMBERED, Withdrawer
from proxy.services.ground import JOBS_PER_WRITE
from tests.helpers.factories import IDS
from tests.helpers.fleet import Fleet


def withdrawer(fleet: Fleet) -> Withdrawer:
    return Withdrawer(fleet.instances[0].ground)


async def test_a_job_that_still_waits_is_cancelled_and_nothing_is_bought() -> None:
    fleet = Fleet()
    made = withdrawer(fleet)
    job_ids = await fleet.accept_many(JOBS_PER_WRITE + 3)
    other = await fleet.accept()
    for job_id in job_ids:
        made.note(job_id)

    assert await made.run_once() == len(job_ids)

    assert await fleet.states() == {JobState.CANCELLED: len(job_ids), JobState.QUEUED: 1}
    assert (await fleet.job(other)).state is JobState.QUEUED
    assert await made.run_once() == 0


async def test_a_job_that_cannot_be_read_keeps_no_other_from_being_taken_back() -> None:
    fleet = Fleet()
    made = withdrawer(fleet)
    damaged, *others = await fleet.accept_many(3)
    fleet.stores.jobs.damaged.add(damaged)
    for job_id in (damaged, *others):
        made.note(job_id)

    assert await made.run_once() == len(others)

    assert {(await fleet.job(job_id)).state for job_id in others} == {JobState.CANCELLED}


async def test_what_a_batch_has_already_is_booked_as_useless_when_it_is_read() -> None:
    fleet = Fleet()
    made = withdrawer(fleet)
    job_ids = await fleet.submit(12)
    made.note(job_ids[0])

    await made.run_once()
    await fleet.answer()

    booked = await fleet.booked()
    assert (booked.answers, booked.useless) == (11, 1)
    assert booked.paid_nano + booked.useless_nano == fleet.provider.spent_nano


async def test_a_job_that_comes_into_being_later_is_looked_for_a_while() -> None:
    fleet = Fleet()
    made = withdrawer(fleet)
    job_id = IDS.job()
    made.note(job_id)

    assert await made.run_once() == 0
    fleet.clock.advance(seconds=LOOKED_FOR.total_seconds() - 1)
    await fleet.accept(id=job_id)
    assert await made.run_once() == 1

    assert (await fleet.job(job_id)).state is JobState.CANCELLED
    assert fleet.tally.counts["job_ended"] == 1


async def test_one_that_never_came_is_forgotten() -> None:
    fleet = Fleet()
    made = withdrawer(fleet)
    job_id = IDS.job()
    made.note(job_id)

    fleet.clock.advance(seconds=LOOKED_FOR.total_seconds())
    assert await made.run_once() == 0
    await fleet.accept(id=job_id)
    assert await made.run_once() == 0

    assert (await fleet.job(job_id)).state is JobState.QUEUED


async def test_one_that_was_answered_before_it_was_found_is_a_double() -> None:
    fleet = Fleet()
    made = withdrawer(fleet)
    (job_id, *_) = await fleet.submit(12)
    await fleet.answer()
    made.note(job_id)

    await made.run_once()

    assert fleet.tally.counts["possible_double"] == 1
    assert (await fleet.job(job_id)).state is JobState.COMPLETED
    assert await made.run_once() == 0


async def test_one_that_failed_before_it_was_found_bought_nothing() -> None:
    fleet = Fleet()
    made = withdrawer(fleet)
    fleet.provider.answer_line = lambda *_: (400, b"{}")
    (job_id, *_) = await fleet.submit(12)
    await fleet.answer()
    made.note(job_id)

    await made.run_once()

    assert (await fleet.job(job_id)).state is JobState.FAILED
    assert fleet.tally.counts["possible_double"] == 0


async def test_a_job_that_the_calls_own_repeat_took_over_is_left_to_it() -> None:
    fleet = Fleet()
    made, stores = withdrawer(fleet), fleet.stores
    job_id = await fleet.accept()
    job = await fleet.job(job_id)
    made.note(job_id)
    repeats = Repeats(
        deliveries=stores.deliveries,
        jobs=stores.jobs,
        clock=fleet.clock,
        tally=fleet.tally,
        on_claimed=made.keep,
    )

    claimed = await repeats.claim(job.owner, job.fingerprint, retry_count=1)
    await made.run_once()

    assert claimed is not None
    assert (claimed.id, (await fleet.job(job_id)).state) == (job_id, JobState.QUEUED)


async def test_no_more_are_remembered_than_there_is_room_for() -> None:
    fleet = Fleet()
    made = withdrawer(fleet)
    first, *_ = job_ids = [IDS.job() for _ in range(REMEMBERED + 1)]
    for job_id in job_ids:
        made.note(job_id)

    await fleet.accept(id=first)
    await fleet.accept(id=job_ids[-1])

    assert await made.run_once() == 1
    assert (await fleet.job(first)).state is JobState.QUEUED


async def test_while_the_store_is_away_nothing_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = Fleet()
    made = withdrawer(fleet)
    job_id = await fleet.accept()
    made.note(job_id)

    async def away(_: list[JobId]) -> None:
        raise StoreUnavailableError("away")

    with monkeypatch.context() as patch:
        patch.setattr(fleet.stores.jobs, "get_many", away)
        for _ in range(3):
            fleet.clock.advance(seconds=timedelta(hours=1).total_seconds())
            with pytest.raises(StoreUnavailableError):
                await made.run_once()
    await made.run_once()

    assert (await fleet.job(job_id)).state is JobState.CANCELLED
    assert await fleet.booked() == Sums(jobs=1)
