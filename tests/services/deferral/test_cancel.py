"""Jobs that their callers no longer want end once, and are booked as they were bought."""

import pytest

from proxy.core.errors import JobNotFoundError, OverloadedError
from proxy.core.ids import InstanceId
from proxy.core.job import Escalated, JobState, Outcome, Succeeded, advance
from proxy.core.ledger import Sums
from proxy.ports.jobs import JobWrite
from proxy.services.deferral.cancel import Canceller
from proxy.services.ledger.bookkeeping import UselessAnswer, line_receipt
from tests.helpers.fleet import Fleet

CALLER = InstanceId("instance-1")


def canceller(fleet: Fleet) -> Canceller:
    instance = fleet.instances[0]
    return Canceller(instance.ground, waiters=instance.waiters)


async def test_a_cancelled_job_is_told_of_and_counted_once() -> None:
    fleet = Fleet()
    woken = fleet.instances[0].watch_wakes()
    job = await fleet.job(await fleet.accept())

    cancelled = await canceller(fleet).cancel(job)
    again = await canceller(fleet).cancel(cancelled)

    assert cancelled.state is JobState.CANCELLED
    assert again is cancelled
    assert woken == [job.id]
    assert fleet.tally.counts["job_ended"] == 1


async def test_a_cancellation_that_loses_a_race_reads_again(monkeypatch) -> None:
    fleet = Fleet()
    job = await fleet.job(await fleet.accept())
    write = fleet.stores.jobs.replace_many

    async def raced(writes):
        monkeypatch.undo()
        await write([JobWrite(advance(job, Escalated(CALLER)))])
        return await write(writes)

    monkeypatch.setattr(fleet.stores.jobs, "replace_many", raced)

    cancelled = await canceller(fleet).cancel(job)

    assert cancelled.state is JobState.CANCELLED
    assert cancelled.attempt == 1


async def test_who_loses_every_race_is_told_to_come_again(monkeypatch) -> None:
    fleet = Fleet()
    job = await fleet.job(await fleet.accept())

    async def refused(writes):
        return frozenset(one.after.id for one in writes)

    monkeypatch.setattr(fleet.stores.jobs, "replace_many", refused)

    with pytest.raises(OverloadedError) as raised:
        await canceller(fleet).cancel(job)

    assert (raised.value.code, raised.value.retry_after_s) == ("job_busy", 1)


async def test_an_erased_job_is_nowhere() -> None:
    fleet = Fleet()
    job = await fleet.job(await fleet.accept())

    await canceller(fleet).erase(job)

    with pytest.raises(JobNotFoundError):
        await fleet.job(job.id)


async def test_of_an_erased_job_that_was_not_cancelled_no_double_is_taken_back() -> None:
    fleet = Fleet()
    books = fleet.instances[0].ground.books
    job = await fleet.job(await fleet.accept())
    called = advance(job, Escalated(CALLER))
    late = advance(called, Succeeded(0, fleet.clock.now(), Outcome(200)))
    for after in (called, late):
        await fleet.stores.jobs.replace_many([books.write(after)])

    await canceller(fleet).erase(late)

    await books.take_back(called, called.attempt)
    assert (await fleet.booked()).possible_doubles == 0


async def test_what_an_erased_job_was_answered_is_never_taken_for_bought_in_vain() -> None:
    fleet = Fleet()
    job = await fleet.job((await fleet.submit())[0])
    assert job.batch_id is not None
    answered = advance(job, Succeeded(job.attempt, fleet.clock.now(), Outcome(200)))
    await fleet.stores.jobs.replace_many([JobWrite(answered)])

    await canceller(fleet).erase(answered)

    again = UselessAnswer(
        receipt=line_receipt(job.batch_id, job.id, job.attempt),
        job_id=job.id,
        job=None,
        key=job.key,
        attempt=job.attempt,
        outcome=Outcome(200),
    )
    await fleet.instances[0].ground.books.book_useless([again])
    assert await fleet.booked() == Sums()
