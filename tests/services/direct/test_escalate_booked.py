"""What is booked of direct calls that nobody can tell the end of, or that nobody waits for."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from proxy.core.job import CancelRequested, JobState, Outcome, Succeeded, advance
from proxy.core.lanes import Lane
from proxy.core.ledger import Sums
from proxy.core.outcomes import MAX_FAILURES
from tests.helpers.fake_provider import CALL_NANO
from tests.helpers.fleet import Fleet

DOUBTFUL = Sums(jobs=1, possible_doubles=1, possible_unpriced=1)


def cancelled(fleet: Fleet) -> Callable[[], Awaitable[None]]:
    async def cancel() -> None:
        for job_id in fleet.bodies:
            await fleet.cancel(job_id)

    return cancel


def erased(fleet: Fleet) -> Callable[[], Awaitable[None]]:
    async def erase() -> None:
        await cancelled(fleet)()
        for job_id in fleet.bodies:
            await fleet.stores.jobs.erase(job_id)

    return erase


leaving = pytest.mark.parametrize("leave", [cancelled, erased])


async def called(fleet: Fleet, leave: Callable[[Fleet], Callable[[], Awaitable[None]]]) -> None:
    """Call a job whose caller leaves in the middle of it."""
    await fleet.accept(lane=Lane.INTERACTIVE)
    fleet.provider.in_the_middle["call"] = leave(fleet)
    await fleet.run("live", "escalate")


async def test_each_unanswered_call_of_a_job_that_failed_is_counted_as_it_is_booked() -> None:
    fleet = Fleet()
    await fleet.accept(lane=Lane.INTERACTIVE)
    fleet.provider.faults["call"] = deque(["lost_after"] * 50)

    for _ in range(2 * MAX_FAILURES):
        await fleet.run("live", "escalate")
        fleet.clock.advance(minutes=5)

    assert await fleet.states() == {JobState.FAILED: 1}
    assert (await fleet.booked()).possible_doubles == MAX_FAILURES
    assert fleet.tally.counts["possible_double"] == MAX_FAILURES


@leaving
async def test_a_call_that_is_not_answered_after_its_job_was_cancelled_may_be_paid(
    leave: Callable[[Fleet], Callable[[], Awaitable[None]]],
) -> None:
    fleet = Fleet()
    fleet.provider.faults["call"] = deque(["lost_after"])

    await called(fleet, leave)

    assert fleet.provider.spent_nano == CALL_NANO
    assert await fleet.booked() == DOUBTFUL
    assert fleet.tally.counts["possible_double"] == 1


@leaving
async def test_a_call_that_is_answered_after_its_job_was_cancelled_is_known(
    leave: Callable[[Fleet], Callable[[], Awaitable[None]]],
) -> None:
    fleet = Fleet()

    await called(fleet, leave)

    assert await fleet.booked() == Sums(jobs=1, useless=1, useless_nano=CALL_NANO)
    assert fleet.tally.counts["possible_double"] == 0


@pytest.mark.parametrize("is_erased", [False, True])
async def test_a_call_whose_job_a_late_result_ended_takes_back_no_double(is_erased: bool) -> None:
    fleet = Fleet()
    books = fleet.instances[0].ground.books

    async def end() -> None:
        (job,) = await fleet.jobs()
        # Of a batch that was given up: what it cost is not known here.
        after = advance(job, Succeeded(0, fleet.clock.now(), Outcome(200)))
        await fleet.stores.jobs.replace_many([books.write(after)])
        if is_erased:
            await books.note_undoubted(after)
            await fleet.stores.jobs.erase(job.id)

    await called(fleet, lambda _: end)

    assert await fleet.booked() == Sums(
        jobs=1, answers=1, unpriced=1, useless=1, useless_nano=CALL_NANO
    )


async def test_a_call_whose_cancellation_booked_nothing_takes_nothing_back() -> None:
    fleet = Fleet()

    async def cancel_as_before() -> None:
        (job,) = await fleet.jobs()
        after = advance(job, CancelRequested(fleet.clock.now()))
        as_before = replace(after, possible_doubles=job.possible_doubles)
        books = fleet.instances[0].ground.books
        await fleet.stores.jobs.replace_many([books.write(as_before)])

    await called(fleet, lambda _: cancel_as_before)

    assert await fleet.booked() == Sums(jobs=1, useless=1, useless_nano=CALL_NANO)


@pytest.mark.parametrize("status", [400, 401, 429, 503])
@leaving
async def test_a_call_that_was_refused_after_its_job_was_cancelled_cost_nothing(
    leave: Callable[[Fleet], Callable[[], Awaitable[None]]], status: int
) -> None:
    fleet = Fleet()
    fleet.provider.answer_call = lambda _: (status, b"{}")

    await called(fleet, leave)

    assert fleet.provider.spent_nano == 0
    assert await fleet.booked() == Sums(jobs=1)
    assert fleet.tally.counts["possible_double"] == 0


async def test_a_cancelled_call_whose_instance_dies_may_be_paid() -> None:
    fleet = Fleet(instances=2)
    await fleet.accept(lane=Lane.INTERACTIVE)
    began = asyncio.Event()

    async def hold() -> None:
        began.set()
        await asyncio.Event().wait()

    fleet.provider.in_the_middle["call"] = hold
    async with asyncio.TaskGroup() as tasks:
        escalator = fleet.instances[0].make_escalator(tasks)
        await escalator.run_once()
        await began.wait()
        await cancelled(fleet)()
        escalator.abandon()
    fleet.clock.advance(minutes=5)
    await fleet.run("live", "rescue", position=1)

    assert await fleet.booked() == DOUBTFUL


async def test_a_crash_while_a_cancelled_call_is_booked_leaves_no_bill_too_low() -> None:
    for steps in range(30):
        fleet = Fleet()
        await fleet.accept(lane=Lane.INTERACTIVE)
        fleet.provider.in_the_middle["call"] = cancelled(fleet)
        await fleet.run("live")
        fleet.instances[0].steps_left = steps
        survived = await fleet.instances[0].run("escalate")

        booked = await fleet.booked()
        assert fleet.provider.spent_nano <= booked.useless_nano or booked.possible_doubles, steps
        if survived:
            return
    pytest.fail("the pass never came to its end")


async def test_a_call_that_was_cancelled_yesterday_is_known_of_that_day() -> None:
    fleet = Fleet()

    async def cancel() -> None:
        await cancelled(fleet)()
        fleet.clock.advance(hours=24)

    await called(fleet, lambda _: cancel)

    day = fleet.clock.now().date()
    rows = await fleet.stores.ledger.rows(since=day, until=day)
    assert [row.sums for row in rows] == [Sums(useless=1, useless_nano=CALL_NANO)]
    assert (await fleet.booked()).possible_doubles == 0
