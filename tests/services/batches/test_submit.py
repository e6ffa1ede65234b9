"""Handing batches over: whatever breaks on the way, none is bought twice."""

import asyncio
from collections import deque
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from proxy.core.batch import Batch, BatchState
from proxy.core.ids import BatchId, CredentialId
from proxy.core.job import JobState
from proxy.core.lanes import Lane
from proxy.services.batches.submit import FORBIDDEN_TIMES, GIVE_UP_SEARCHING_AFTER, INPUT_TRIES
from tests.helpers.fake_provider import Fault
from tests.helpers.fleet import LEASE, Fleet

CREDENTIAL = CredentialId("credential-1")
TOKEN = "Bearer credential-1"
PATIENCE = LEASE + timedelta(seconds=120)
"""How long another instance leaves a create to a sender that may be alive."""


def will(fleet: Fleet, operation: str, *faults: Fault) -> None:
    fleet.provider.faults[operation] = deque(faults)


async def wait(fleet: Fleet, duration: timedelta, *names: str, position: int = 0) -> None:
    fleet.clock.advance(seconds=duration.total_seconds())
    await fleet.run("live", *names, position=position)


async def recovered(fleet: Fleet, position: int = 0) -> None:
    """Let both searches happen, and what follows from them."""
    for _ in range(3):
        await wait(fleet, timedelta(seconds=30), "submit", position=position)


async def everything_ends(fleet: Fleet) -> None:
    await fleet.run_for(timedelta(hours=27), step=timedelta(minutes=5))


async def test_a_sealed_batch_is_uploaded_and_created_once() -> None:
    fleet = Fleet()

    await fleet.submit(12)
    await fleet.run("submit", "submit")

    batch = await fleet.batch()
    assert batch.state is BatchState.IN_PROGRESS
    assert batch.provider_batch_id == "batch_1"
    assert (fleet.provider.requests["upload"], fleet.provider.requests["create"]) == (1, 1)
    assert fleet.provider.requests["find_upload"] == 0
    assert [body for _, body in fleet.provider.batches["batch_1"].lines] == list(
        fleet.bodies.values()
    )


async def test_an_ambiguous_create_is_adopted_by_search_and_never_repeated() -> None:
    fleet = Fleet()
    will(fleet, "create", "lost_after")

    await fleet.submit(12)
    assert (await fleet.batch()).state is BatchState.SUBMITTING
    await wait(fleet, timedelta(seconds=29), "submit")
    assert fleet.provider.requests["find_batches"] == 0
    await wait(fleet, timedelta(seconds=1), "submit")

    batch = await fleet.batch()
    assert (batch.state, batch.provider_batch_id) == (BatchState.IN_PROGRESS, "batch_1")
    await everything_ends(fleet)
    assert fleet.provider.requests["create"] == 1
    assert set(fleet.provider.bought.values()) == {1}
    assert fleet.tally.counts["batch_adopted"] == 1
    assert fleet.doubles() == (0, 0)


async def test_only_after_two_searches_in_vain_is_an_ambiguous_create_sent_again() -> None:
    fleet = Fleet()
    will(fleet, "create", "unavailable")

    await fleet.submit(12)
    await wait(fleet, timedelta(seconds=30), "submit")
    assert (await fleet.batch()).searches == 1
    await fleet.run("submit")
    assert fleet.provider.requests["find_batches"] == 1
    assert fleet.provider.requests["create"] == 1

    await wait(fleet, timedelta(seconds=30), "submit")
    assert (await fleet.batch()).state is BatchState.SEALED
    await fleet.run("submit")

    assert (await fleet.batch()).state is BatchState.IN_PROGRESS
    assert fleet.provider.requests["find_batches"] == 2
    assert fleet.provider.requests["create"] == 2
    assert fleet.provider.requests["upload"] == 1


async def test_a_search_that_fails_proves_nothing_and_comes_again_later() -> None:
    fleet = Fleet()
    will(fleet, "create", "lost_after")
    will(fleet, "find_batches", "unavailable", "busy")

    await fleet.submit(12)
    await wait(fleet, timedelta(seconds=30), "submit", "submit", "submit")
    assert fleet.provider.requests["find_batches"] == 1
    await recovered(fleet)

    assert (await fleet.batch()).provider_batch_id == "batch_1"
    assert fleet.provider.requests["create"] == 1


async def test_the_silence_of_another_keys_lists_proves_nothing() -> None:
    fleet = Fleet()
    await fleet.add_credential("credential-9")
    will(fleet, "create", "lost_after")
    await fleet.submit(12)
    fleet.provider.revoked.add(TOKEN)

    await wait(fleet, timedelta(seconds=30), "submit")
    for _ in range(5):
        await wait(fleet, timedelta(minutes=5), "submit")
    assert (await fleet.batch()).state is BatchState.SUBMITTING
    assert (await fleet.batch()).searches == 0
    fleet.provider.revoked.clear()
    await wait(fleet, timedelta(minutes=5), "submit")

    assert (await fleet.batch()).provider_batch_id == "batch_1"
    assert fleet.provider.requests["create"] == 1


async def test_another_key_of_the_same_project_may_find_what_was_created() -> None:
    fleet = Fleet()
    await fleet.add_credential("credential-9")
    fleet.provider.projects = {TOKEN: "p", "Bearer credential-9": "p"}
    will(fleet, "create", "lost_after")
    await fleet.submit(12)
    fleet.provider.revoked.add(TOKEN)

    await wait(fleet, timedelta(seconds=30), "submit")

    assert (await fleet.batch()).provider_batch_id == "batch_1"


async def test_a_create_that_surely_did_not_leave_is_sent_again_without_a_search() -> None:
    fleet = Fleet()
    will(fleet, "create", "lost_before")

    await fleet.submit(12)
    assert (await fleet.batch()).state is BatchState.SEALED
    await wait(fleet, timedelta(seconds=30), "submit")

    assert (await fleet.batch()).state is BatchState.IN_PROGRESS
    assert fleet.provider.requests["find_batches"] == 0
    assert fleet.provider.requests["create"] == 2


async def test_a_busy_provider_is_left_in_peace_as_long_as_it_asks() -> None:
    fleet = Fleet()
    will(fleet, "create", "busy")

    await fleet.submit(12)
    await wait(fleet, timedelta(seconds=29), "submit")
    assert fleet.provider.requests["create"] == 1
    await wait(fleet, timedelta(seconds=1), "submit")

    assert (await fleet.batch()).state is BatchState.IN_PROGRESS
    assert fleet.provider.requests["find_batches"] == 0


@pytest.mark.parametrize("operation", ["upload", "create"])
async def test_a_provider_that_asks_for_a_day_makes_nobody_miss_a_deadline(operation: str) -> None:
    fleet = Fleet()
    fleet.provider.retry_after_s = 86_400
    will(fleet, operation, "busy")

    await fleet.submit(12, deadline=timedelta(hours=2))
    await fleet.run_for(timedelta(hours=2, minutes=30), step=timedelta(minutes=1))

    jobs = await fleet.jobs()
    assert {(job.state, job.deadline_missed) for job in jobs} == {(JobState.COMPLETED, False)}
    assert fleet.provider.requests[operation] == 1
    assert set(fleet.provider.bought.values()) == {1}


async def test_a_rejected_create_gives_every_job_back_to_be_batched_anew() -> None:
    fleet = Fleet()
    will(fleet, "create", "rejected")
    await fleet.submit(12)

    batch = await fleet.batch()
    assert (batch.state, batch.error_code) == (BatchState.ENDED, "provider_rejected")
    await fleet.run("collect")

    jobs = await fleet.jobs()
    assert {job.state for job in jobs} == {JobState.QUEUED}
    assert {job.failures for job in jobs} == {1}
    await everything_ends(fleet)
    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert fleet.doubles() == (0, 0)


async def test_a_provider_that_always_rejects_leads_to_direct_calls() -> None:
    fleet = Fleet()
    always: list[Fault] = ["rejected"] * 100
    will(fleet, "create", *always)

    await fleet.submit(9)
    await everything_ends(fleet)

    assert await fleet.states() == {JobState.COMPLETED: 9}
    assert fleet.provider.requests["create"] == 3
    assert fleet.provider.requests["call"] == 9


async def test_a_line_that_is_refused_without_being_named_takes_few_along() -> None:
    fleet = Fleet()
    job_ids = await fleet.accept_many(320)
    fleet.provider.poison = fleet.bodies[job_ids[200]]

    await everything_ends(fleet)

    assert await fleet.states() == {JobState.COMPLETED: 320}
    assert fleet.provider.requests["call"] == 1
    # All of it, then sixteen parts, and the jobs of the one bad part by themselves.
    assert fleet.provider.requests["create"] == 1 + 16 + 20
    assert fleet.doubles() == (0, 0)


async def test_a_file_that_is_not_visible_yet_costs_no_job_a_try() -> None:
    fleet = Fleet()
    will(fleet, "create", "no_input", "no_input")
    await fleet.submit(12)

    for _ in range(2):
        await wait(fleet, timedelta(seconds=30), "submit")

    assert (await fleet.batch()).state is BatchState.IN_PROGRESS
    assert {job.failures for job in await fleet.jobs()} == {0}
    assert (fleet.provider.requests["upload"], fleet.provider.requests["create"]) == (1, 3)


async def test_a_file_that_is_gone_is_uploaded_again() -> None:
    fleet = Fleet()
    always: list[Fault] = ["no_input"] * INPUT_TRIES
    will(fleet, "create", *always)

    await fleet.submit(12)
    await everything_ends(fleet)

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert fleet.provider.requests["call"] == 0
    assert fleet.provider.requests["upload"] > 1


@pytest.mark.parametrize("code", ["batch_failed", "too_many_tasks"])
async def test_a_batch_that_fails_for_no_known_reason_takes_few_along(code: str) -> None:
    fleet = Fleet()
    job_ids = await fleet.accept_many(320)
    fleet.provider.poison = fleet.bodies[job_ids[200]]
    fleet.provider.poison_fails_as = code

    await everything_ends(fleet)

    assert await fleet.states() == {JobState.COMPLETED: 320}
    assert fleet.provider.requests["call"] == 10
    # All of it, then sixteen parts, and two halves of the bad part.
    assert fleet.provider.requests["create"] == 1 + 16 + 2
    assert fleet.doubles() == (0, 0)


@pytest.mark.parametrize("operation", ["upload", "create"])
async def test_a_refused_credential_pauses_its_lane_and_burns_no_job(operation: str) -> None:
    fleet = Fleet()
    will(fleet, operation, "refused")

    await fleet.submit(12)
    credential = await fleet.stores.credentials.get(CREDENTIAL)
    assert credential is not None
    assert credential.paused_at is not None
    await wait(fleet, timedelta(seconds=30), "submit", "collect")

    assert (await fleet.batch()).end_reason == "its credential is paused"
    jobs = await fleet.jobs()
    assert {(job.state, job.failures) for job in jobs} == {(JobState.QUEUED, 0)}
    await everything_ends(fleet)
    assert await fleet.states() == {JobState.COMPLETED: 12}


@pytest.mark.parametrize("operation", ["upload", "create"])
async def test_a_key_without_the_scope_of_batches_loses_that_lane_alone(operation: str) -> None:
    fleet = Fleet()
    always: list[Fault] = ["forbidden"] * 1_000
    will(fleet, operation, *always)
    await fleet.accept_many(12)

    await fleet.run_for(timedelta(minutes=30), step=timedelta(seconds=30))

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert fleet.provider.requests[operation] == FORBIDDEN_TIMES
    assert fleet.tally.counts["credential_paused"] == FORBIDDEN_TIMES


async def test_a_key_without_means_keeps_the_lane_of_batches() -> None:
    fleet = Fleet()
    fleet.provider.forbids = b'{"error":{"code":"billing_not_active"}}'
    always: list[Fault] = ["forbidden"] * (2 * FORBIDDEN_TIMES)
    will(fleet, "create", *always)
    await fleet.accept_many(12)

    await fleet.run_for(timedelta(hours=2), step=timedelta(seconds=30))

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert fleet.provider.requests["call"] == 0


async def test_a_batch_whose_credential_was_paused_meanwhile_is_not_even_uploaded() -> None:
    fleet = Fleet()
    await fleet.flush(12)
    await fleet.stores.credentials.pause(CREDENTIAL, at=fleet.clock.now(), status=401, body=b"{}")

    await fleet.run("submit")

    batch = await fleet.batch()
    assert (batch.state, batch.end_reason) == (BatchState.ENDED, "its credential is paused")
    assert fleet.provider.requests == {}


async def test_no_other_credential_of_the_owner_ever_buys() -> None:
    fleet = Fleet()
    await fleet.add_credential("credential-9")
    await fleet.flush(12)
    await fleet.stores.credentials.pause(CREDENTIAL, at=fleet.clock.now(), status=401, body=None)

    await fleet.run("submit")

    assert fleet.provider.requests["upload"] == fleet.provider.requests["create"] == 0


async def test_a_batch_that_became_too_late_is_given_up_before_it_is_bought() -> None:
    fleet = Fleet()
    job_ids = await fleet.flush(12, deadline=timedelta(hours=2))

    await wait(fleet, timedelta(hours=1, minutes=26), "submit", "collect")

    assert (await fleet.batch()).end_reason == "too late for a batch"
    assert fleet.provider.requests == {}
    assert {(await fleet.job(one)).lane for one in job_ids} == {Lane.INTERACTIVE}
    await everything_ends(fleet)
    assert not any(job.deadline_missed for job in await fleet.jobs())


async def test_a_batch_of_which_nothing_is_left_is_not_sent() -> None:
    fleet = Fleet()
    for job_id in await fleet.flush(12):
        await fleet.cancel(job_id)

    await fleet.run("submit", "collect")

    batch = await fleet.batch()
    assert (batch.state, batch.error_code) == (BatchState.SETTLED, "empty")
    assert fleet.provider.requests["upload"] == fleet.provider.requests["create"] == 0


async def test_a_job_cancelled_before_the_upload_is_left_out_of_it() -> None:
    fleet = Fleet()
    job_ids = await fleet.flush(12)
    await fleet.cancel(job_ids[5])

    await fleet.run("submit")

    lines = fleet.provider.batches["batch_1"].lines
    assert len(lines) == 11
    assert fleet.bodies[job_ids[5]] not in [body for _, body in lines]


async def test_a_job_cancelled_during_the_upload_makes_the_upload_anew() -> None:
    """The file's length was promised; a shorter one fails and costs nothing."""
    fleet = Fleet()
    job_ids = await fleet.flush(12)
    fleet.provider.in_the_middle["upload"] = lambda: fleet.cancel(job_ids[5])

    await fleet.run("submit")
    assert (await fleet.batch()).state is BatchState.SEALED
    await wait(fleet, timedelta(seconds=30), "submit")

    assert (await fleet.batch()).state is BatchState.IN_PROGRESS
    assert len(fleet.provider.batches["batch_1"].lines) == 11


async def test_an_upload_is_repeated_only_after_looking_for_the_earlier_one() -> None:
    fleet = Fleet()
    will(fleet, "upload", "lost_after")

    await fleet.submit(12)
    await wait(fleet, timedelta(seconds=30), "submit")

    assert (await fleet.batch()).input_file_id == "file-1"
    assert fleet.provider.requests["find_upload"] == 1
    assert fleet.provider.requests["upload"] == 1
    assert fleet.provider.requests["create"] == 1


async def test_an_upload_that_no_list_tells_of_is_done_again() -> None:
    fleet = Fleet()
    will(fleet, "upload", "lost_after")
    will(fleet, "find_upload", "rejected")
    await fleet.submit(12)

    await wait(fleet, timedelta(seconds=30), "submit")

    assert (await fleet.batch()).state is BatchState.IN_PROGRESS
    assert fleet.provider.requests["upload"] == 2


async def test_an_upload_that_did_not_happen_is_done_again() -> None:
    fleet = Fleet()
    will(fleet, "upload", "unavailable")

    await fleet.submit(12)
    await wait(fleet, timedelta(seconds=30), "submit")

    assert fleet.provider.requests["find_upload"] == 1
    assert fleet.provider.requests["upload"] == 2
    assert fleet.provider.requests["create"] == 1


async def test_a_long_upload_keeps_its_lease() -> None:
    fleet = Fleet(instances=2)
    await fleet.flush(12)

    async def two_minutes_pass() -> None:
        for _ in range(24):
            fleet.clock.advance(seconds=5)
            # The keeper wakes up, asks the store and sleeps again.
            await _settle()
            await fleet.run("live", "submit", position=1)

    fleet.provider.in_the_middle["upload"] = two_minutes_pass
    await fleet.run("submit")

    assert (await fleet.batch()).state is BatchState.IN_PROGRESS
    assert fleet.provider.requests["upload"] == fleet.provider.requests["create"] == 1


async def test_a_sender_stopped_longer_than_its_lease_sends_nothing() -> None:
    fleet = Fleet()
    await fleet.flush(12)
    store: Any = fleet.instances[0].ground.batches
    write = store.replace

    async def stopped_after_the_intent(after: Batch) -> bool:
        written = bool(await write(after))
        if after.create_started_at is not None:
            fleet.clock.advance(seconds=LEASE.total_seconds() + 1)
        return written

    store.replace = stopped_after_the_intent
    await fleet.run("submit")

    assert (await fleet.batch()).create_started_at is not None
    assert fleet.provider.requests["create"] == 0
    store.replace = write
    await wait(fleet, PATIENCE, "submit")
    await recovered(fleet)
    assert fleet.provider.requests["create"] == 1


async def test_who_wakes_up_after_another_submitted_sends_nothing() -> None:
    fleet = Fleet(instances=2)
    await fleet.flush(12)

    fleet.provider.in_the_middle["upload"] = lambda: _another_takes_over(fleet)
    await fleet.run("submit")

    assert (await fleet.batch()).state is BatchState.IN_PROGRESS
    assert fleet.provider.requests["create"] == 1


async def test_a_create_that_waits_long_for_its_turn_keeps_its_lease() -> None:
    fleet = Fleet(instances=2)
    await fleet.flush(12)

    async def others_are_sent_first() -> None:
        for _ in range(9):
            fleet.clock.advance(seconds=5)
            await _settle()

    fleet.provider.in_the_middle["turn of create"] = others_are_sent_first
    await fleet.run("submit")

    assert (await fleet.batch()).state is BatchState.IN_PROGRESS
    assert fleet.provider.requests["create"] == 1


async def test_who_wakes_up_with_its_create_still_to_be_sent_sends_nothing() -> None:
    fleet = Fleet(instances=2)
    await fleet.flush(12)

    async def another_searches_in_vain_and_submits() -> None:
        fleet.instances[0].frozen_after = 0
        fleet.clock.advance(seconds=PATIENCE.total_seconds())
        for _ in range(4):
            await fleet.run("submit", position=1)
            fleet.clock.advance(seconds=30)
        fleet.instances[0].thaw()

    fleet.provider.in_the_middle["turn of create"] = another_searches_in_vain_and_submits
    await fleet.run("submit")

    assert fleet.provider.requests["create"] == len(fleet.provider.batches) == 1
    assert (await fleet.batch()).provider_batch_id == "batch_1"


async def test_who_wakes_up_while_anothers_create_is_in_doubt_sends_nothing() -> None:
    fleet = Fleet(instances=2)
    await fleet.flush(12)
    will(fleet, "create", "lost_after")

    fleet.provider.in_the_middle["upload"] = lambda: _another_takes_over(fleet)
    await fleet.run("submit")
    assert fleet.provider.requests["create"] == 1
    await recovered(fleet)

    assert fleet.provider.requests["create"] == 1
    assert (await fleet.batch()).provider_batch_id == "batch_1"


async def test_a_crash_before_the_answer_is_noted_ends_in_an_adoption() -> None:
    fleet = Fleet(instances=2)
    await fleet.flush(12)
    await _dies_after_its_create(fleet)

    await wait(fleet, PATIENCE - timedelta(seconds=1), "submit", position=1)
    assert fleet.provider.requests["find_batches"] == 0
    await wait(fleet, timedelta(seconds=1), "submit", position=1)

    batch = await fleet.batch()
    assert (batch.state, batch.provider_batch_id) == (BatchState.IN_PROGRESS, "batch_1")
    assert fleet.provider.requests["create"] == 1


async def test_the_doubt_of_an_earlier_create_does_not_hurry_the_search_for_the_next() -> None:
    """A create may take longer than a lease: its sender lives, and must not be overtaken."""
    fleet = Fleet(instances=2)
    will(fleet, "create", "unavailable")
    await fleet.submit(12)
    await wait(fleet, timedelta(seconds=30), "submit")
    await wait(fleet, timedelta(seconds=30), "submit")
    assert (await fleet.batch()).state is BatchState.SEALED

    async def it_takes_long() -> None:
        for _ in range(9):
            fleet.clock.advance(seconds=10)
            await fleet.run("live", "submit", position=1)

    fleet.provider.in_the_middle["create"] = it_takes_long
    await fleet.run("submit")

    assert (await fleet.batch()).state is BatchState.IN_PROGRESS
    assert fleet.provider.requests["create"] == 2
    assert len(fleet.provider.batches) == 1


async def test_of_two_batches_found_the_older_is_adopted_and_the_younger_stopped() -> None:
    fleet = Fleet()
    fleet.provider.stalled = True
    await fleet.flush(12)
    await _dies_after_its_create(fleet)
    await _a_twin_appears(fleet, (await fleet.batch()).id)

    await wait(fleet, PATIENCE, "submit")

    batch = await fleet.batch()
    assert (batch.provider_batch_id, batch.twins) == ("batch_1", ("batch_2",))
    assert fleet.provider.requests["create"] == 1
    fleet.provider.finish("batch_1", "completed", executed=12)
    await wait(fleet, timedelta(seconds=30), "collect")
    assert fleet.provider.batches["batch_2"].status == "cancelled"
    assert fleet.tally.counts["late_result"] == 6


async def test_a_twin_found_later_is_cancelled_read_and_counted_once() -> None:
    fleet = Fleet()
    fleet.provider.listing_lag = timedelta(minutes=5)
    will(fleet, "create", "lost_after")
    await fleet.submit(12)
    await recovered(fleet)
    batch = await fleet.batch()
    assert (batch.state, batch.provider_batch_id) == (BatchState.IN_PROGRESS, "batch_2")

    await fleet.run_for(timedelta(hours=3), step=timedelta(minutes=5))

    assert (await fleet.batch()).twins == ("batch_1",)
    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert fleet.provider.batches["batch_1"].status in ("completed", "cancelled")
    extra, _ = fleet.doubles()
    assert fleet.tally.counts["late_result"] == extra > 0
    assert fleet.tally.counts["batch_twin"] == 1
    await everything_ends(fleet)
    assert fleet.tally.counts["late_result"] == extra
    assert (await fleet.batch()).state is BatchState.SETTLED


async def test_after_an_unclear_create_twins_are_looked_for_for_25_hours() -> None:
    fleet = Fleet()
    will(fleet, "create", "lost_after")
    await fleet.submit(12)

    await fleet.run_for(timedelta(hours=24, minutes=55), step=timedelta(minutes=5))
    assert (await fleet.batch()).state is BatchState.ENDED
    # Each time twice as late: at once, after 15 minutes, and so on.
    assert fleet.provider.requests["find_batches"] == 8
    await fleet.run_for(timedelta(minutes=30), step=timedelta(minutes=5))

    assert (await fleet.batch()).state is BatchState.SETTLED


async def test_a_batch_with_an_unknown_upstream_is_left_alone() -> None:
    fleet = Fleet()
    await fleet.flush(12)
    fleet.instances[0].access._providers = {}

    await fleet.run("submit")

    assert (await fleet.batch()).state is BatchState.SEALED


@pytest.mark.parametrize("fault", ["unavailable", "rejected", "busy"])
async def test_a_search_that_never_succeeds_keeps_no_job_for_ever(fault: Fault) -> None:
    fleet = Fleet()
    will(fleet, "create", "unavailable")
    will(fleet, "find_batches", *[fault] * 1_000)
    await fleet.submit(12)

    await fleet.run_for(GIVE_UP_SEARCHING_AFTER - timedelta(hours=1), step=timedelta(minutes=20))
    assert await fleet.states() == {JobState.BATCHED: 12}
    await fleet.run_for(timedelta(hours=3), step=timedelta(minutes=20))

    assert await fleet.states() == {JobState.COMPLETED: 12}
    # Nobody knows whether the create was done.
    assert fleet.tally.counts["possible_double"] == 12
    assert (await fleet.batch()).state is BatchState.SETTLED


async def test_a_search_that_is_refused_for_ever_ends_once_nobody_waits() -> None:
    fleet = Fleet()
    will(fleet, "create", "lost_after")
    await fleet.submit(12)
    fleet.provider.revoked.add(TOKEN)

    await fleet.run_for(timedelta(days=1, hours=4), step=timedelta(minutes=20))
    assert await fleet.states() == {JobState.FAILED: 12}
    assert (await fleet.batch()).state is BatchState.SUBMITTING
    await fleet.run_for(timedelta(days=15), step=timedelta(hours=6))

    assert (await fleet.batch()).state is BatchState.SETTLED


async def _another_takes_over(fleet: Fleet) -> None:
    """Let the first instance stand still until the second one has done all that it can."""
    first = fleet.instances[0]
    first.frozen_after = 0
    fleet.clock.advance(seconds=LEASE.total_seconds() + 1)
    await fleet.run("submit", position=1)
    assert fleet.provider.requests["create"] == 1
    first.thaw()


async def _dies_after_its_create(fleet: Fleet) -> None:
    async def count_down() -> None:
        # One more call of a port comes before the answer would be noted.
        fleet.instances[0].steps_left = 0

    fleet.provider.in_the_middle["create"] = count_down
    assert not await fleet.instances[0].run("submit")
    fleet.kill(0)
    await fleet.run("live")


async def _a_twin_appears(fleet: Fleet, batch_id: BatchId) -> None:
    original = fleet.provider.batches["batch_1"]
    assert original.ours == batch_id
    fleet.provider.batches["batch_2"] = replace(original, id="batch_2", results=[])


async def _settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)
