"""Batches without names: adopted on suspicion, confirmed by what is in them, or let go."""

import asyncio
from collections import deque
from datetime import timedelta

import pytest

from proxy.core.batch import Batch, BatchState
from proxy.core.ids import InstanceId
from proxy.core.job import JobState
from proxy.ports.provider import LineKind, ResultLine
from tests.helpers.fake_provider import Fault, right_answer
from tests.helpers.nameless import NamelessFleet
from tests.helpers.raw_upstream import wait_until

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
COUNT = 12


def will(fleet: NamelessFleet, operation: str, *faults: Fault) -> None:
    fleet.provider.faults[operation] = deque(faults)


async def unclear(*faults: Fault) -> NamelessFleet:
    """A fleet whose first create was sent, and answered by nothing."""
    fleet = NamelessFleet()
    await fleet.accept_many(COUNT)
    will(fleet, "create", *(faults or ("lost_after",)))
    fleet.clock.advance(minutes=15)
    await fleet.round()
    assert fleet.provider.requests["create"] == 1
    return fleet


async def batches(fleet: NamelessFleet) -> list[Batch]:
    """All of ours, oldest first."""
    return list(reversed(await fleet.stores.batches.recent(limit=100)))


async def assert_all_answered(fleet: NamelessFleet) -> None:
    for job in await fleet.jobs():
        assert job.state is JobState.COMPLETED
        result = await fleet.stores.jobs.result(job.id)
        assert result is not None
        assert result.body == right_answer(fleet.bodies[job.id])


def bought(fleet: NamelessFleet) -> set[int]:
    """How often our bodies were bought."""
    return {fleet.provider.bought[body] for body in fleet.bodies.values()}


async def test_where_no_size_is_told_the_time_alone_must_do() -> None:
    fleet = await unclear()
    fleet.nameless.tells_size = False

    await fleet.run_for(HOUR, step=MINUTE)

    await assert_all_answered(fleet)
    assert bought(fleet) == {1}
    assert fleet.provider.requests["create"] == 1


async def test_the_one_batch_of_its_size_is_adopted_and_proves_to_be_ours() -> None:
    fleet = await unclear()

    await fleet.run_for(MINUTE, step=timedelta(seconds=30))
    (adopted,) = await batches(fleet)
    await fleet.run_for(HOUR, step=MINUTE)

    assert (adopted.state, adopted.is_provisional) == (BatchState.IN_PROGRESS, True)
    await assert_all_answered(fleet)
    assert bought(fleet) == {1}
    assert fleet.provider.requests["create"] == 1
    (ended,) = await batches(fleet)
    assert not ended.is_provisional
    await fleet.run_for(timedelta(hours=27), step=HOUR)
    assert fleet.provider.batches["batch_1"].deleted
    assert fleet.doubles() == (0, 0)


async def test_nothing_of_its_size_means_that_nothing_was_created() -> None:
    fleet = await unclear("unavailable")
    fleet.nameless.strangers(COUNT + 1)

    await fleet.run_for(HOUR, step=MINUTE)

    await assert_all_answered(fleet)
    assert bought(fleet) == {1}
    assert fleet.provider.requests["create"] == 2
    assert fleet.tally.counts["batch_adopted"] == 0


async def test_somebody_elses_batch_is_let_go_when_its_names_show() -> None:
    fleet = await unclear("unavailable")
    stranger = fleet.nameless.strangers(COUNT)

    await fleet.run_for(2 * MINUTE, step=timedelta(seconds=30))
    (adopted,) = await batches(fleet)
    await fleet.run_for(2 * HOUR, step=MINUTE)

    assert adopted.provider_batch_id == stranger.id
    await assert_all_answered(fleet)
    assert bought(fleet) == {1}
    assert fleet.doubles() == (0, 0)
    assert (stranger.status, stranger.deleted) == ("completed", False)
    first, *_ = await batches(fleet)
    assert (first.provider_batch_id, first.end_reason) == (None, "another's batch")


@pytest.mark.parametrize(
    "junk", [[], [ResultLine(kind=LineKind.UNREADABLE, custom_id=None)]], ids=["empty", "an error"]
)
async def test_an_adopted_batch_is_not_let_go_for_results_that_name_nobody(junk) -> None:
    fleet = await unclear()
    fleet.provider.mangle = lambda _: junk
    await fleet.run_for(8 * MINUTE, step=timedelta(seconds=30))
    (adopted,) = await batches(fleet)
    assert (adopted.state, adopted.is_provisional) == (BatchState.ENDED, True)
    fleet.provider.mangle = lambda lines: lines

    await fleet.run_for(HOUR, step=MINUTE)

    await assert_all_answered(fleet)
    assert bought(fleet) == {1}


@pytest.mark.parametrize("is_gone", [False, True])
async def test_an_adopted_batch_that_never_names_anybody_is_let_go_in_the_end(
    is_gone: bool,
) -> None:
    fleet = await unclear()
    first = fleet.provider.batches["batch_1"]
    # Its results are not there, or have nothing in them.
    first.deleted = is_gone
    fleet.provider.mangle = lambda lines: [] if lines == first.results else lines

    await fleet.run_for(8 * MINUTE, step=timedelta(seconds=30))
    (adopted,) = await batches(fleet)
    assert (adopted.state, adopted.is_provisional) == (BatchState.ENDED, True)
    await fleet.run_for(2 * HOUR, step=MINUTE)

    await assert_all_answered(fleet)
    assert bought(fleet) == {2}
    assert fleet.doubles() == (COUNT, COUNT)


async def test_of_two_that_may_be_ours_none_is_adopted_and_the_doubt_is_booked() -> None:
    fleet = await unclear()
    stranger = fleet.nameless.strangers(COUNT)

    await fleet.run_for(5 * MINUTE, step=timedelta(seconds=30))
    assert fleet.provider.requests["create"] == 2
    assert fleet.tally.counts["possible_double"] == COUNT
    await fleet.run_for(timedelta(hours=30), step=timedelta(minutes=15))

    await assert_all_answered(fleet)
    assert bought(fleet) == {2}
    (batch,) = await batches(fleet)
    assert batch.state is BatchState.SETTLED
    # Its names told later which of the two was ours.
    assert batch.twins == ("batch_1",)
    assert (stranger.status, stranger.deleted) == ("completed", False)


async def test_a_batch_that_does_not_tell_in_time_is_given_up_at_half_the_slack() -> None:
    fleet = await unclear()
    fleet.provider.stalled = True
    slack = timedelta(hours=26) - timedelta(minutes=15)

    await fleet.run_for(slack / 2 - 2 * MINUTE, step=10 * MINUTE)
    (waiting,) = await batches(fleet)
    fleet.provider.stalled = False
    fleet.provider.batches["batch_1"].created_at += timedelta(hours=20)
    await fleet.run_for(timedelta(hours=2), step=MINUTE)

    assert waiting.state is BatchState.IN_PROGRESS
    first, second = await batches(fleet)
    assert (first.end_reason, first.provider_batch_id) == ("unconfirmed", None)
    assert second.provider_batch_id == "batch_2"
    assert fleet.provider.requests["cancel"] == 0
    assert fleet.tally.counts["possible_double"] == COUNT
    await assert_all_answered(fleet)
    for job in await fleet.jobs():
        assert not job.deadline_missed


@pytest.mark.parametrize("operation", ["retrieve", "results"])
async def test_a_batch_that_cannot_be_asked_is_given_up_at_half_the_slack_as_well(
    operation: str,
) -> None:
    fleet = await unclear()
    await fleet.run_for(5 * MINUTE, step=MINUTE)
    fleet.will(operation, "unavailable", times=10_000)

    await fleet.run_for(timedelta(hours=14), step=10 * MINUTE)

    first = (await batches(fleet))[0]
    assert (first.end_reason, first.provider_batch_id) == ("unconfirmed", None)
    assert fleet.tally.counts["possible_double"] == COUNT


async def test_with_little_slack_there_is_always_time_for_direct_calls() -> None:
    fleet = NamelessFleet()
    job_ids = await fleet.accept_many(COUNT, deadline=timedelta(minutes=50))
    fleet.provider.stalled = True
    will(fleet, "create", "lost_after")

    await fleet.run_for(timedelta(minutes=50), step=MINUTE)

    jobs = await fleet.jobs()
    assert {job.id for job in jobs if job.state is JobState.COMPLETED} == set(job_ids)
    assert not any(job.deadline_missed for job in jobs)
    assert fleet.provider.requests["cancel"] == 0


async def test_a_batch_whose_jobs_were_all_cancelled_is_not_cancelled_on_suspicion() -> None:
    fleet = await unclear()
    await fleet.run_for(MINUTE, step=timedelta(seconds=30))

    for job_id in list(fleet.bodies):
        await fleet.cancel(job_id)
    await fleet.run_for(5 * MINUTE, step=MINUTE)

    assert fleet.provider.requests["cancel"] == 0


async def test_a_confirmed_batch_is_one_like_any_other() -> None:
    fleet = NamelessFleet()
    await fleet.accept_many(COUNT)
    fleet.provider.stalled = True

    await fleet.run_for(timedelta(hours=26), step=10 * MINUTE)

    assert fleet.provider.requests["cancel"] >= 1


async def test_only_one_create_of_a_credential_is_in_doubt_at_a_time() -> None:
    fleet = await unclear()
    await fleet.accept_many(COUNT)
    await fleet.accept_many(COUNT, credential="credential-2")
    will(fleet, "find_batches", "unavailable", "unavailable")
    fleet.clock.advance(minutes=15)

    for _ in range(3):
        await fleet.round()
        fleet.clock.advance(seconds=1)

    creates = [one.owner_token for one in fleet.provider.batches.values()]
    assert creates == ["Bearer credential-1", "Bearer credential-2"]
    await fleet.run_for(HOUR, step=MINUTE)
    await assert_all_answered(fleet)
    assert bought(fleet) == {1}


async def test_no_create_begins_while_another_instance_begins_one() -> None:
    fleet = NamelessFleet(instances=2)
    await fleet.flush(COUNT)

    async with fleet.instances[1].leases.held("create:credential-1"):
        await fleet.run("submit")
    await fleet.wait(timedelta(seconds=1), "submit")
    assert fleet.provider.requests["create"] == 0
    await fleet.wait(timedelta(seconds=1), "submit")

    assert fleet.provider.requests["create"] == 1


async def test_batches_that_we_know_are_no_candidates() -> None:
    fleet = NamelessFleet()
    await fleet.accept_many(COUNT)
    fleet.clock.advance(minutes=15)
    await fleet.round()
    await fleet.round()
    await fleet.accept_many(COUNT)
    will(fleet, "create", "unavailable")
    fleet.clock.advance(minutes=1)

    await fleet.run_for(HOUR, step=MINUTE)

    assert {one.provider_batch_id for one in await batches(fleet)} == {"batch_1", "batch_2"}
    await assert_all_answered(fleet)
    assert fleet.doubles() == (0, 0)


async def test_a_sender_that_wakes_up_with_the_answer_proves_the_adoption() -> None:
    fleet = NamelessFleet(instances=2)
    await fleet.accept_many(COUNT)
    fleet.clock.advance(minutes=15)
    await fleet.instances[0].run("flush")
    sender = fleet.instances[0]

    async def answer_is_slow() -> None:
        fleet.nameless.on_create = None
        sender.frozen_after = 0

    fleet.nameless.on_create = answer_is_slow
    async with asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(sender.run("submit"))
        await wait_until(lambda: sender.is_frozen)
        fleet.clock.advance(minutes=5)
        for _ in range(3):
            await fleet.instances[1].run("submit")
            fleet.clock.advance(seconds=30)
        (adopted,) = await batches(fleet)
        sender.thaw()
        await sending

    assert adopted.is_provisional
    (batch,) = await batches(fleet)
    assert (batch.provider_batch_id, batch.is_provisional) == ("batch_1", False)
    assert batch.twins == ()


async def test_a_create_that_carries_its_input_does_not_outlive_its_lease() -> None:
    fleet = NamelessFleet()
    await fleet.accept_many(COUNT)
    fleet.clock.advance(minutes=15)
    begun = asyncio.Event()
    ended: list[bool] = []

    async def endless() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    fleet.nameless.on_create = endless
    await fleet.instances[0].run("flush")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fleet.instances[0].run("submit"))
        await begun.wait()
        await wait_until(lambda: fleet.clock.sleepers)
        (batch,) = await batches(fleet)
        # By the time of the next renewal another instance has taken the lease.
        fleet.clock.advance(minutes=1)
        now = fleet.clock.now()
        assert await fleet.stores.leases.acquire(
            f"batch:{batch.id}", InstanceId("other"), now=now, until=now + HOUR
        )

    assert ended
    (after,) = await batches(fleet)
    assert (after.state, after.ambiguous_since) == (BatchState.SUBMITTING, fleet.clock.now())


@pytest.mark.parametrize("distance", [timedelta(minutes=-5), timedelta(minutes=25)])
async def test_a_batch_of_another_time_is_no_candidate(distance: timedelta) -> None:
    fleet = await unclear("unavailable")
    fleet.nameless.strangers(COUNT).created_at += distance
    # The instance is down for a while, and only then are the lists searched.
    fleet.kill(0)
    fleet.clock.advance(minutes=30)

    await fleet.run_for(2 * HOUR, step=MINUTE)

    await assert_all_answered(fleet)
    assert fleet.tally.counts["batch_adopted"] == 0
