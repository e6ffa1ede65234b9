"""Asking after provider batches, and stopping those that would come too late."""

from dataclasses import replace
from datetime import timedelta

import pytest

from proxy.core.batch import BatchState
from proxy.core.ids import CredentialId
from proxy.core.job import JobState
from proxy.core.lanes import Lane
from proxy.ports.jobs import Credential
from proxy.ports.provider import ProviderBatch, ProviderBatchState
from tests.helpers.factories import T0, make_key
from tests.helpers.fake_provider import Fault
from tests.helpers.fleet import TIMES, Fleet

CREDENTIAL = CredentialId("credential-1")
TOKEN = "Bearer credential-1"


async def stalled(**changes) -> Fleet:
    """Return a fleet with one batch of 12 that takes its time, submitted at `T0` + 60 s."""
    fleet = Fleet()
    fleet.provider.stalled = True
    await fleet.submit(12, **changes)
    return fleet


async def polled(fleet: Fleet, **delta: float) -> None:
    fleet.clock.advance(**(delta or {"seconds": 10}))
    await fleet.run("live", "collect")


async def test_a_batch_is_asked_for_when_it_is_due_and_not_before() -> None:
    fleet = await stalled()

    await polled(fleet, seconds=9)
    assert fleet.provider.requests["retrieve"] == 0
    await polled(fleet, seconds=1)
    await fleet.run("collect")
    assert fleet.provider.requests["retrieve"] == 1
    await polled(fleet, seconds=30)
    assert fleet.provider.requests["retrieve"] == 2


async def test_a_provider_that_does_not_answer_is_asked_again_after_a_pause() -> None:
    fleet = await stalled()
    fleet.will("retrieve", "unavailable")

    await polled(fleet)
    assert (await fleet.batch()).next_at == fleet.clock.now() + timedelta(seconds=30)
    await polled(fleet, seconds=30)

    assert fleet.provider.requests["retrieve"] == 2
    assert (await fleet.batch()).state is BatchState.IN_PROGRESS


@pytest.mark.parametrize("fault", [None, "unavailable"])
async def test_a_batch_that_the_store_forgets_while_it_is_asked_for_ends_no_instance(
    monkeypatch: pytest.MonkeyPatch, fault: Fault | None
) -> None:
    fleet = await stalled()
    asked = fleet.provider.retrieve

    async def asked_in_vain(credential: Credential, provider_batch_id: str) -> ProviderBatch:
        fleet.stores.batches.lose_all()
        return await asked(credential, provider_batch_id)

    monkeypatch.setattr(fleet.provider, "retrieve", asked_in_vain)
    if fault is not None:
        fleet.will("retrieve", fault)

    await polled(fleet)

    assert fleet.provider.requests["retrieve"] == 1
    assert await fleet.stores.batches.live() == []


async def test_a_batch_is_cancelled_early_enough_for_its_nearest_deadline() -> None:
    fleet = await stalled(deadline=timedelta(hours=3))
    due = T0 + timedelta(hours=3) - TIMES.batch_slack - timedelta(seconds=1.2)

    fleet.clock.advance(seconds=(due - fleet.clock.now()).total_seconds() - 1)
    await fleet.run("live", "collect")
    assert fleet.provider.requests["cancel"] == 0
    planned = (await fleet.batch()).next_at
    assert planned == due
    await polled(fleet, seconds=1)

    assert fleet.provider.requests["cancel"] == 1
    assert fleet.provider.batches["batch_1"].status == "cancelled"


SOON = timedelta(minutes=80)
"""Too near for a second batch in the place of a slow one."""


async def test_only_the_remainder_of_a_cancelled_batch_is_called_directly() -> None:
    fleet = await stalled(deadline=SOON)
    fleet.provider.cancel_time = timedelta(minutes=20)

    await fleet.run_for(SOON, step=timedelta(minutes=1))

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert fleet.provider.requests["call"] == 6
    assert fleet.provider.requests["cancel"] == 1
    assert not any(job.deadline_missed for job in await fleet.jobs())
    assert fleet.doubles() == (0, 0)


async def test_nothing_is_called_directly_while_the_batch_may_still_answer() -> None:
    fleet = await stalled(deadline=SOON)
    fleet.provider.cancel_time = timedelta(hours=2)

    await fleet.run_for(timedelta(hours=2, minutes=20), step=timedelta(minutes=1))
    assert fleet.provider.requests["call"] == 0
    assert await fleet.states() == {JobState.BATCHED: 12}
    await fleet.run_for(timedelta(hours=1), step=timedelta(minutes=1))

    states = await fleet.states()
    assert states[JobState.COMPLETED] == 6
    assert states[JobState.EXPIRED] == 6
    assert fleet.tally.counts["deadline_missed"] == 12


async def test_a_cancel_that_fails_is_tried_again_soon() -> None:
    fleet = await stalled(deadline=SOON)
    fleet.will("cancel", "unavailable", "lost_before")

    await fleet.run_for(timedelta(minutes=55), step=timedelta(minutes=1))

    assert fleet.provider.requests["cancel"] == 3
    assert (await fleet.batch()).state is BatchState.SETTLED


async def test_a_provider_in_trouble_near_the_deadline_is_not_asked_at_every_pass() -> None:
    fleet = await stalled(deadline=timedelta(hours=3))
    fleet.will("retrieve", "unavailable", times=99)
    await polled(fleet, hours=2, minutes=28)
    asked = fleet.provider.requests["retrieve"]

    for _ in range(30):
        await polled(fleet, seconds=2)

    assert fleet.provider.requests["retrieve"] - asked <= 3


async def test_a_silent_provider_does_not_delay_a_poll_beyond_the_time_to_cancel() -> None:
    fleet = await stalled(deadline=timedelta(hours=3))
    due = T0 + timedelta(hours=3) - TIMES.batch_slack - timedelta(seconds=1.2)
    fleet.clock.advance(seconds=(due - fleet.clock.now()).total_seconds() - 5)
    fleet.will("retrieve", "unavailable")

    await fleet.run("live", "collect")

    assert (await fleet.batch()).next_at == due


async def test_a_batch_that_nobody_wants_any_more_is_cancelled() -> None:
    fleet = await stalled()
    job_ids = list(fleet.bodies)
    for job_id in job_ids[:-1]:
        await fleet.cancel(job_id)
    await polled(fleet)
    assert fleet.provider.requests["cancel"] == 0

    await fleet.cancel(job_ids[-1])
    await polled(fleet, seconds=30)
    await polled(fleet)

    assert fleet.provider.requests["cancel"] == 1
    assert (await fleet.batch()).state is BatchState.SETTLED
    assert fleet.tally.counts["late_result"] == 6


async def test_a_batch_that_somebody_else_cancelled_is_waited_for() -> None:
    fleet = await stalled()
    fleet.provider.batches["batch_1"].status = "cancelling"

    await polled(fleet)

    assert (await fleet.batch()).state is BatchState.CANCELLING
    assert fleet.provider.requests["cancel"] == 0


async def test_a_new_batch_that_is_not_known_yet_is_no_lost_one() -> None:
    fleet = await stalled()
    fleet.provider.hidden.add("batch_1")

    await polled(fleet)
    await polled(fleet, minutes=2)
    assert (await fleet.batch()).state is BatchState.IN_PROGRESS
    fleet.provider.hidden.clear()
    await polled(fleet, minutes=1)

    batch = await fleet.batch()
    assert (batch.state, batch.missing_since) == (BatchState.IN_PROGRESS, None)
    assert fleet.tally.counts["batch_lost"] == 0


async def lost(**changes) -> Fleet:
    fleet = await stalled(**changes)
    fleet.provider.hidden.add("batch_1")
    await polled(fleet)
    await polled(fleet, minutes=10)
    assert (await fleet.batch()).state is BatchState.LOST
    return fleet


async def test_a_lost_batch_is_kept_until_its_deadline_presses_and_then_counted() -> None:
    fleet = await lost(deadline=timedelta(hours=3))
    assert fleet.tally.counts["batch_lost"] == 1

    await fleet.run_for(timedelta(hours=2, minutes=10), step=timedelta(minutes=1))
    assert await fleet.states() == {JobState.BATCHED: 12}
    await fleet.run_for(timedelta(minutes=20), step=timedelta(minutes=1))

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert not any(job.deadline_missed for job in await fleet.jobs())
    assert fleet.tally.counts["possible_double"] == 12
    assert {job.possible_doubles for job in await fleet.jobs()} == {1}


async def test_a_lost_batch_that_turns_up_is_read_as_if_nothing_had_been() -> None:
    fleet = await lost()
    fleet.provider.hidden.clear()
    fleet.provider.stalled = False

    await polled(fleet, minutes=5)

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert fleet.doubles() == (0, 0)


async def test_a_revoked_key_is_polled_with_the_owners_other_one_of_the_project() -> None:
    fleet = await stalled()
    await fleet.add_credential("credential-9")
    fleet.provider.projects = {TOKEN: "p", "Bearer credential-9": "p"}
    fleet.provider.revoked.add(TOKEN)
    fleet.provider.stalled = False

    await fleet.answer()

    assert await fleet.states() == {JobState.COMPLETED: 12}
    credential = await fleet.stores.credentials.get(CREDENTIAL)
    assert credential is not None
    assert credential.paused_at is not None
    assert (await fleet.batch()).state is BatchState.SETTLED


async def test_a_batch_that_no_key_may_read_notes_since_when_and_is_asked_rarely() -> None:
    fleet = await stalled()
    fleet.provider.revoked.add(TOKEN)

    await polled(fleet)
    since = fleet.clock.now()
    await polled(fleet, seconds=299)
    assert fleet.provider.requests["retrieve"] == 1
    await polled(fleet, seconds=1)

    assert (await fleet.batch()).refused_since == since
    assert fleet.provider.requests["retrieve"] == 2
    assert fleet.tally.counts["credential_paused"] == 1


async def test_a_key_that_is_restored_reads_what_was_finished_meanwhile() -> None:
    fleet = await stalled()
    fleet.provider.revoked.add(TOKEN)
    fleet.provider.stalled = False
    await fleet.run_for(timedelta(hours=5), step=timedelta(minutes=5))
    assert await fleet.states() == {JobState.BATCHED: 12}

    fleet.provider.revoked.clear()
    await fleet.run_for(timedelta(minutes=15), step=timedelta(minutes=1))

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert fleet.doubles() == (0, 0)


async def test_two_instances_do_not_settle_a_batch_at_once() -> None:
    fleet = Fleet(instances=2)
    await fleet.submit(12)
    fleet.clock.advance(minutes=7)
    first = fleet.instances[0]
    held = first.leases.held(f"batch:{(await fleet.batch()).id}")

    async with held:
        await fleet.run("collect", position=1)
        assert fleet.provider.requests["retrieve"] == 0
    await fleet.run("collect", position=1)

    assert await fleet.states() == {JobState.COMPLETED: 12}


@pytest.mark.parametrize("credential", ["credential-2"])
async def test_one_credentials_trouble_holds_up_nobody_elses_batch(credential: str) -> None:
    fleet = Fleet()
    await fleet.submit(12)
    others = await fleet.submit(12, credential=credential)
    fleet.provider.revoked.add(TOKEN)

    await fleet.answer()

    assert {(await fleet.job(job_id)).state for job_id in others} == {JobState.COMPLETED}
    assert (await fleet.states())[JobState.BATCHED] == 12


async def test_a_batch_with_an_unknown_upstream_is_left_alone() -> None:
    fleet = await stalled()
    fleet.instances[0].access._providers = {}

    await polled(fleet)

    assert (await fleet.batch()).state is BatchState.IN_PROGRESS
    assert {job.lane for job in await fleet.jobs()} == {Lane.BATCH}


async def test_a_provider_that_wants_to_be_left_alone_is_asked_no_more_often() -> None:
    fleet = Fleet()
    fleet.provider.poll_floor = timedelta(seconds=60)
    fleet.provider.stalled = True
    await fleet.submit(12)

    await fleet.run_for(timedelta(minutes=10), step=timedelta(seconds=5))

    assert 5 <= fleet.provider.requests["retrieve"] <= 11


async def test_what_a_provider_says_of_anothers_batch_is_not_believed() -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.provider.misreport = lambda batch: replace(
        batch, id="batch_9", state=ProviderBatchState.ENDED, output_file_ids=("file-9",)
    )
    await fleet.run_for(timedelta(minutes=2), step=timedelta(seconds=10))
    assert await fleet.states() == {JobState.BATCHED: 12}
    fleet.provider.misreport = lambda batch: batch
    await fleet.run_for(timedelta(hours=1), step=timedelta(minutes=1))

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert set(fleet.provider.bought.values()) == {1}


async def test_a_batch_that_names_its_results_a_little_later_is_not_bought_again() -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.provider.misreport = lambda batch: replace(batch, output_file_ids=())
    await fleet.answer()
    await fleet.poll(seconds=90)
    assert await fleet.states() == {JobState.BATCHED: 12}
    fleet.provider.misreport = lambda batch: batch
    await fleet.poll(seconds=30)

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert set(fleet.provider.bought.values()) == {1}
    assert fleet.doubles() == (0, 0)


async def test_a_batch_that_counts_answers_and_names_only_failures_is_asked_again() -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.provider.misreport = lambda batch: replace(batch, lacks_answers=True)
    fleet.provider.mangle = lambda lines: lines[:2]
    await fleet.answer()
    assert await fleet.states() == {JobState.BATCHED: 12}
    fleet.provider.misreport = lambda batch: batch
    fleet.provider.mangle = lambda lines: lines
    await fleet.poll(seconds=30)

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert set(fleet.provider.bought.values()) == {1}
    assert fleet.doubles() == (0, 0)


async def test_counts_that_are_wrong_keep_no_results_from_being_read() -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.provider.misreport = lambda batch: replace(batch, lacks_answers=True)
    await fleet.answer()
    for _ in range(5):
        await fleet.poll(seconds=30)

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert fleet.doubles() == (0, 0)


async def test_a_batch_that_never_names_its_results_is_given_up_and_counted() -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.provider.misreport = lambda batch: replace(batch, output_file_ids=())
    await fleet.answer()
    for _ in range(5):
        await fleet.poll(seconds=30)

    assert await fleet.states() == {JobState.QUEUED: 12}
    assert fleet.tally.counts["possible_double"] == 12


async def test_a_slow_batch_is_begun_anew_while_there_is_time() -> None:
    fleet = await stalled(deadline=timedelta(hours=5))
    await fleet.run_for(timedelta(hours=1), step=timedelta(minutes=1))
    fleet.provider.stalled = False

    await fleet.run_for(timedelta(hours=3), step=timedelta(minutes=1))

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert fleet.provider.requests["call"] == 0
    assert fleet.doubles() == (0, 0)


async def test_a_slow_batch_makes_room_for_those_that_its_tokens_keep_out() -> None:
    fleet = Fleet()
    fleet.provider.stalled = True
    await fleet.submit(12, tokens=100)
    await fleet.instances[0].governor.exceeded(
        make_key().provider_queue, 1, others=1_200, now=fleet.clock.now()
    )
    await fleet.accept_many(12, tokens=100)

    await fleet.run_for(timedelta(hours=1), step=timedelta(minutes=1))
    fleet.provider.stalled = False
    await fleet.run_for(timedelta(hours=1), step=timedelta(minutes=1))

    assert fleet.tally.counts["batch_cancelled"] == 1
    assert await fleet.states() == {JobState.COMPLETED: 24}
    assert fleet.doubles() == (0, 0)


async def test_a_batch_that_nobody_can_stop_is_waited_for_and_its_jobs_complete_late() -> None:
    fleet = Fleet()
    fleet.provider.stalled = True
    job_id = (await fleet.submit(12, deadline=timedelta(hours=2)))[0]
    # With so little time they had not entered a batch that cannot be stopped.
    fleet.provider.can_cancel = False

    await fleet.run_for(timedelta(hours=3), step=timedelta(minutes=1))
    assert await fleet.states() == {JobState.BATCHED: 12}
    fleet.provider.stalled = False
    await fleet.run_for(timedelta(minutes=10), step=timedelta(minutes=1))

    job = await fleet.job(job_id)
    assert (job.state, job.deadline_missed) == (JobState.COMPLETED, True)
    assert fleet.provider.requests["cancel"] == fleet.provider.requests["call"] == 0
    assert fleet.tally.counts["deadline_missed"] == 12


async def test_a_slow_batch_whose_part_would_be_lost_is_not_begun_anew() -> None:
    fleet = Fleet()
    fleet.provider.keeps_partial_results = False
    fleet.provider.stalled = True
    await fleet.submit(12, deadline=timedelta(hours=5))

    await fleet.run_for(timedelta(hours=3), step=timedelta(minutes=1))

    assert fleet.provider.requests["cancel"] == 0


async def test_jobs_with_less_than_a_window_never_enter_a_batch_that_nobody_can_stop() -> None:
    fleet = Fleet()
    fleet.provider.can_cancel = False
    await fleet.accept_many(12, deadline=timedelta(hours=20))
    patient = await fleet.accept_many(12, deadline=timedelta(hours=26))

    fleet.clock.advance(seconds=60)
    await fleet.run("live", "flush", "escalate")

    assert (await fleet.batch()).count == 12
    assert {(await fleet.job(one)).state for one in patient} == {JobState.BATCHED}
    assert fleet.provider.requests["call"] == 10


async def give_up(fleet: Fleet, *, within_hours: int) -> None:
    """See that the twelve jobs of a batch are given up then, as possible doubles."""
    await fleet.run_for(timedelta(hours=50), step=timedelta(minutes=15))
    assert await fleet.states() == {JobState.BATCHED: 12}
    await fleet.run_for(timedelta(hours=within_hours), step=timedelta(minutes=15))

    assert await fleet.states() == {JobState.EXPIRED: 12}
    assert (await fleet.booked()).possible_doubles == 12


@pytest.mark.parametrize("fault", ["unavailable", "busy"])
async def test_a_batch_that_nobody_can_ask_after_keeps_no_job_for_ever(fault: Fault) -> None:
    fleet = await stalled()
    fleet.will("retrieve", fault, times=10_000)

    await give_up(fleet, within_hours=2)

    assert (await fleet.batch()).end_reason == "unreached"


@pytest.mark.parametrize("fault", ["unavailable", "busy"])
async def test_a_batch_is_not_given_up_for_one_bad_answer_after_a_long_sleep(fault: Fault) -> None:
    """As after a weekend with the lid closed: the answers are there, and paid for."""
    fleet = Fleet()
    fleet.provider.window = timedelta(days=30)
    await fleet.submit(12)
    fleet.will("retrieve", fault)

    await polled(fleet, days=4)
    await fleet.run_for(timedelta(hours=1), step=timedelta(minutes=1))

    assert (await fleet.batch()).end_reason == "completed"
    assert (await fleet.booked()).possible_doubles == 0


async def test_a_batch_that_cannot_be_connected_to_is_not_given_up() -> None:
    fleet = Fleet()
    fleet.provider.window = timedelta(days=30)
    await fleet.submit(12)
    fleet.will("retrieve", "lost_before", times=10_000)

    await fleet.run_for(timedelta(hours=60), step=timedelta(minutes=15))
    assert await fleet.states() == {JobState.BATCHED: 12}
    fleet.provider.faults["retrieve"].clear()
    await fleet.run_for(timedelta(hours=1), step=timedelta(minutes=15))

    assert await fleet.states() == {JobState.COMPLETED: 12}


@pytest.mark.parametrize("can_cancel", [True, False])
async def test_a_batch_that_never_ends_keeps_no_job_for_ever(can_cancel: bool) -> None:
    fleet = await stalled()
    fleet.provider.can_cancel = can_cancel
    fleet.provider.cancel_time = fleet.provider.window = timedelta(days=30)

    await give_up(fleet, within_hours=2)

    assert (await fleet.batch()).end_reason == "unended"


@pytest.mark.parametrize("fault", ["rejected", "busy", "unavailable"])
async def test_a_batch_that_can_neither_end_nor_be_stopped_keeps_no_job_for_ever(
    fault: Fault,
) -> None:
    fleet = await stalled()
    fleet.provider.window = timedelta(days=30)
    fleet.will("cancel", fault, times=10_000)

    await give_up(fleet, within_hours=3)


async def test_a_batch_that_was_slept_over_is_stopped_before_it_is_given_up() -> None:
    fleet = await stalled()
    fleet.provider.window = timedelta(days=30)
    fleet.provider.cancel_time = timedelta(minutes=10)

    await polled(fleet, days=3)
    await polled(fleet, minutes=11)

    assert fleet.provider.requests["cancel"] == 1
    assert (await fleet.batch()).end_reason == "cancelled"


async def test_what_a_batch_that_never_ends_has_answered_is_not_bought_again() -> None:
    fleet = await stalled()
    fleet.provider.window = timedelta(days=30)
    # One of its calls hangs. Results can be read while it runs, as at xAI.
    fleet.provider.finish("batch_1", "cancelling", executed=11)
    fleet.provider.batches["batch_1"].results.pop()

    await fleet.run_for(timedelta(hours=52), step=timedelta(minutes=15))

    assert await fleet.states() == {JobState.COMPLETED: 11, JobState.EXPIRED: 1}
    assert (await fleet.batch()).end_reason == "unended"
    assert (await fleet.booked()).possible_doubles == 1


async def test_a_batch_whose_credential_cannot_be_read_keeps_no_job_for_ever() -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.stores.credentials.damaged.add(CREDENTIAL)

    await fleet.run_for(timedelta(hours=50), step=timedelta(minutes=15))
    assert await fleet.states() == {JobState.BATCHED: 12}
    await fleet.run_for(timedelta(hours=2), step=timedelta(minutes=15))

    assert await fleet.states() == {JobState.EXPIRED: 12}
    assert (await fleet.booked()).possible_doubles == 12


async def test_a_credential_that_can_be_read_again_in_time_costs_nothing() -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.provider.finish("batch_1", "completed", executed=12)
    fleet.stores.credentials.damaged.add(CREDENTIAL)
    await fleet.run_for(timedelta(hours=40), step=timedelta(minutes=15))

    fleet.stores.credentials.damaged.clear()
    await fleet.run_for(timedelta(hours=1), step=timedelta(minutes=5))

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert (await fleet.booked()).possible_doubles == 0
