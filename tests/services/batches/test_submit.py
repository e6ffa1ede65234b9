"""Handing batches over: whatever breaks on the way, none is bought twice."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, cast

import pytest

from proxy.core.batch import Batch, BatchState
from proxy.core.ids import CredentialId
from proxy.core.job import JobState
from proxy.core.lanes import Lane
from proxy.services.batches.submit import CHANGED_TRIES, INPUT_TRIES, UNREAD_TRIES
from tests.helpers.fake_provider import Fault
from tests.helpers.fleet import LEASE, Fleet
from tests.helpers.loops import settled
from tests.helpers.nameless import NamelessFleet

CREDENTIAL = CredentialId("credential-1")
TOKEN = "Bearer credential-1"
PATIENCE = LEASE + timedelta(seconds=120)
"""How long another instance leaves a create to a sender that may be alive."""


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


async def test_a_create_that_surely_did_not_leave_is_sent_again_without_a_search() -> None:
    fleet = Fleet()
    fleet.will("create", "lost_before")

    await fleet.submit(12)
    assert (await fleet.batch()).state is BatchState.SEALED
    await fleet.wait(timedelta(seconds=30), "submit")

    assert (await fleet.batch()).state is BatchState.IN_PROGRESS
    assert fleet.provider.requests["find_batches"] == 0
    assert fleet.provider.requests["create"] == 2
    # Its input is where it was.
    assert fleet.provider.requests["find_upload"] == 0
    assert fleet.provider.requests["upload"] == 1


async def test_a_busy_provider_is_left_in_peace_as_long_as_it_asks() -> None:
    fleet = Fleet()
    fleet.will("create", "busy")

    await fleet.submit(12)
    await fleet.wait(timedelta(seconds=29), "submit")
    assert fleet.provider.requests["create"] == 1
    await fleet.wait(timedelta(seconds=1), "submit")

    assert (await fleet.batch()).state is BatchState.IN_PROGRESS
    assert fleet.provider.requests["find_batches"] == 0


@pytest.mark.parametrize("operation", ["upload", "create"])
async def test_a_provider_that_asks_for_a_day_makes_nobody_miss_a_deadline(operation: str) -> None:
    fleet = Fleet()
    fleet.provider.retry_after = timedelta(days=1)
    fleet.will(operation, "busy", times=100)

    await fleet.submit(12, deadline=timedelta(hours=2))
    await fleet.run_for(timedelta(hours=2, minutes=30), step=timedelta(minutes=1))

    jobs = await fleet.jobs()
    assert {(job.state, job.deadline_missed) for job in jobs} == {(JobState.COMPLETED, False)}
    # Ever more often, but hardly ever.
    assert fleet.provider.requests[operation] <= 8
    assert set(fleet.provider.bought.values()) == {1}


@pytest.mark.parametrize("operation", ["upload", "create"])
async def test_a_provider_that_asks_for_a_day_is_asked_again_before_jobs_go_at_full_price(
    operation: str,
) -> None:
    fleet = Fleet()
    fleet.provider.retry_after = timedelta(days=1)
    fleet.will(operation, "busy")

    await fleet.submit(12, deadline=timedelta(hours=6))
    await fleet.run_for(timedelta(hours=2, minutes=30), step=timedelta(minutes=1))
    assert fleet.provider.requests[operation] == 1
    await fleet.run_for(timedelta(hours=3, minutes=30), step=timedelta(minutes=1))

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert fleet.provider.requests[operation] == 2
    assert fleet.provider.requests["call"] == 0


async def test_a_rejected_create_gives_every_job_back_to_be_batched_anew() -> None:
    fleet = Fleet()
    fleet.will("create", "rejected")
    await fleet.submit(12)

    batch = await fleet.batch()
    assert (batch.state, batch.error_code) == (BatchState.ENDED, "provider_rejected")
    await fleet.run("collect")

    jobs = await fleet.jobs()
    assert {job.state for job in jobs} == {JobState.QUEUED}
    assert {job.failures for job in jobs} == {1}
    await fleet.everything_ends()
    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert fleet.doubles() == (0, 0)


async def test_a_provider_that_always_rejects_leads_to_direct_calls() -> None:
    fleet = Fleet()
    always: list[Fault] = ["rejected"] * 100
    fleet.will("create", *always)

    await fleet.submit(9)
    await fleet.everything_ends()

    assert await fleet.states() == {JobState.COMPLETED: 9}
    assert fleet.provider.requests["create"] == 3
    assert fleet.provider.requests["call"] == 9


async def test_a_line_that_is_refused_without_being_named_takes_few_along() -> None:
    fleet = Fleet()
    job_ids = await fleet.accept_many(320)
    fleet.provider.poison = fleet.bodies[job_ids[200]]

    await fleet.everything_ends()

    assert await fleet.states() == {JobState.COMPLETED: 320}
    assert fleet.provider.requests["call"] == 1
    # All of it, then sixteen parts, and the jobs of the one bad part by themselves.
    assert fleet.provider.requests["create"] == 1 + 16 + 20
    assert fleet.doubles() == (0, 0)


async def test_a_file_that_is_not_visible_yet_costs_no_job_a_try() -> None:
    fleet = Fleet()
    fleet.will("create", "no_input", "no_input")
    await fleet.submit(12)

    for _ in range(2):
        await fleet.wait(timedelta(seconds=30), "submit")

    assert (await fleet.batch()).state is BatchState.IN_PROGRESS
    assert {job.failures for job in await fleet.jobs()} == {0}
    assert (fleet.provider.requests["upload"], fleet.provider.requests["create"]) == (1, 3)


async def test_a_file_that_is_not_visible_yet_has_its_tries_whatever_came_before() -> None:
    fleet = Fleet()
    busy: list[Fault] = ["busy"] * INPUT_TRIES
    fleet.will("create", *busy, "no_input")
    await fleet.submit(12)

    for _ in range(INPUT_TRIES + 1):
        await fleet.wait(timedelta(seconds=30), "submit")

    assert (await fleet.batch()).state is BatchState.IN_PROGRESS
    assert {job.failures for job in await fleet.jobs()} == {0}
    assert fleet.provider.requests["create"] == INPUT_TRIES + 2


async def test_what_is_kept_of_files_that_are_not_visible_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr("proxy.services.pauses.REMEMBERED", 2)
    fleet = Fleet()
    fleet.will("create", "no_input", times=99)
    for number in range(4):
        await fleet.submit(12, credential=str(number))

    submitter = cast("Any", fleet.instances[0].passes["submit"]).__self__

    assert len(submitter._unseen) == 2


async def test_a_file_that_is_gone_is_uploaded_again() -> None:
    fleet = Fleet()
    always: list[Fault] = ["no_input"] * INPUT_TRIES
    fleet.will("create", *always)

    await fleet.submit(12)
    await fleet.everything_ends()

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert fleet.provider.requests["call"] == 0
    assert fleet.provider.requests["upload"] > 1


@pytest.mark.parametrize("code", ["batch_failed", "too_many_tasks"])
async def test_a_batch_that_fails_for_no_known_reason_takes_few_along(code: str) -> None:
    fleet = Fleet()
    job_ids = await fleet.accept_many(320)
    fleet.provider.poison = fleet.bodies[job_ids[200]]
    fleet.provider.poison_fails_as = code

    await fleet.everything_ends()

    assert await fleet.states() == {JobState.COMPLETED: 320}
    assert fleet.provider.requests["call"] == 10
    # All of it, then sixteen parts, and two halves of the bad part.
    assert fleet.provider.requests["create"] == 1 + 16 + 2
    assert fleet.doubles() == (0, 0)


@pytest.mark.parametrize("operation", ["upload", "create"])
async def test_a_refused_credential_pauses_its_lane_and_burns_no_job(operation: str) -> None:
    fleet = Fleet()
    fleet.will(operation, "refused")

    await fleet.submit(12)
    credential = await fleet.stores.credentials.get(CREDENTIAL)
    assert credential is not None
    assert credential.paused_at is not None
    await fleet.wait(timedelta(seconds=30), "submit", "collect")

    assert (await fleet.batch()).end_reason == "its credential is paused"
    jobs = await fleet.jobs()
    assert {(job.state, job.failures) for job in jobs} == {(JobState.QUEUED, 0)}
    await fleet.everything_ends()
    assert await fleet.states() == {JobState.COMPLETED: 12}


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

    await fleet.wait(timedelta(hours=1, minutes=26), "submit", "collect")

    assert (await fleet.batch()).end_reason == "too late for a batch"
    assert fleet.provider.requests == {}
    assert {(await fleet.job(one)).lane for one in job_ids} == {Lane.INTERACTIVE}
    await fleet.everything_ends()
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
    # Whoever asks for another job there must not hear that the upstream is silent.
    assert fleet.instances[0].ground.troubles.all() == {}
    # Nor need the others wait for what one caller did.
    await fleet.run("submit")

    assert (await fleet.batch()).state is BatchState.IN_PROGRESS
    assert len(fleet.provider.batches["batch_1"].lines) == 11


async def test_a_batch_whose_jobs_are_cancelled_one_by_one_is_not_uploaded_all_the_time() -> None:
    fleet = Fleet()
    job_ids = await fleet.flush(12)

    for job_id in job_ids[:8]:
        fleet.provider.in_the_middle["upload"] = partial(fleet.cancel, job_id)
        await fleet.run("submit")
    assert fleet.provider.requests["upload"] == CHANGED_TRIES
    fleet.provider.in_the_middle.clear()
    await fleet.wait(timedelta(seconds=30), "submit")

    assert (await fleet.batch()).state is BatchState.IN_PROGRESS
    assert len(fleet.provider.batches["batch_1"].lines) == 7


async def test_an_upload_is_repeated_only_after_looking_for_the_earlier_one() -> None:
    fleet = Fleet()
    fleet.will("upload", "lost_after")

    await fleet.submit(12)
    await fleet.wait(timedelta(seconds=30), "submit")

    assert (await fleet.batch()).input_file_id == "file-1"
    assert fleet.provider.requests["find_upload"] == 1
    assert fleet.provider.requests["upload"] == 1
    assert fleet.provider.requests["create"] == 1


async def test_an_upload_that_no_list_tells_of_is_done_again() -> None:
    fleet = Fleet()
    fleet.will("upload", "lost_after")
    fleet.will("find_upload", "rejected")
    await fleet.submit(12)

    await fleet.wait(timedelta(seconds=30), "submit")

    assert (await fleet.batch()).state is BatchState.IN_PROGRESS
    assert fleet.provider.requests["upload"] == 2


async def test_an_upload_that_did_not_happen_is_done_again() -> None:
    fleet = Fleet()
    fleet.will("upload", "unavailable")

    await fleet.submit(12)
    await fleet.wait(timedelta(seconds=30), "submit")

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
            await settled()
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
    await fleet.wait(PATIENCE, "submit")
    await fleet.recovered()
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
            await settled()

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
    fleet.will("create", "lost_after")

    fleet.provider.in_the_middle["upload"] = lambda: _another_takes_over(fleet)
    await fleet.run("submit")
    assert fleet.provider.requests["create"] == 1
    await fleet.recovered()

    assert fleet.provider.requests["create"] == 1
    assert (await fleet.batch()).provider_batch_id == "batch_1"


async def test_a_batch_with_an_unknown_upstream_is_left_alone() -> None:
    fleet = Fleet()
    await fleet.flush(12)
    fleet.instances[0].access._providers = {}

    await fleet.run("submit")

    assert (await fleet.batch()).state is BatchState.SEALED


async def _another_takes_over(fleet: Fleet) -> None:
    """Let the first instance stand still until the second one has done all that it can."""
    first = fleet.instances[0]
    first.frozen_after = 0
    fleet.clock.advance(seconds=LEASE.total_seconds() + 1)
    await fleet.run("submit", position=1)
    assert fleet.provider.requests["create"] == 1
    first.thaw()


async def test_a_batch_whose_credential_cannot_be_read_costs_no_other_job() -> None:
    fleet = Fleet()
    lost = [await fleet.accept(credential="damaged") for _ in range(12)]
    fine = await fleet.accept_many(12)
    fleet.stores.credentials.damaged.add(CredentialId("damaged"))

    await fleet.run_for(timedelta(hours=27), step=timedelta(minutes=20))

    assert {(await fleet.job(job_id)).state for job_id in fine} == {JobState.COMPLETED}
    assert {(await fleet.job(job_id)).state for job_id in lost} == {JobState.EXPIRED}


@pytest.mark.parametrize("make_fleet", [Fleet, NamelessFleet])
async def test_a_call_that_cannot_be_read_keeps_no_other_out_of_its_batch(
    make_fleet: Callable[[], Fleet],
) -> None:
    fleet = make_fleet()
    damaged, *others = await fleet.flush(12)
    fleet.stores.jobs.damaged_bodies.add(damaged)

    for _ in range(UNREAD_TRIES):
        await fleet.wait(timedelta(seconds=15), "submit")
        await fleet.wait(timedelta(seconds=15), "submit")
    assert (await fleet.batch()).submissions == UNREAD_TRIES
    await fleet.wait(timedelta(seconds=30), "submit")
    await fleet.answer()

    assert {(await fleet.job(one)).lane for one in others} == {Lane.BATCH}
    assert {(await fleet.job(one)).state for one in others} == {JobState.COMPLETED}
    assert (await fleet.job(damaged)).lane is Lane.INTERACTIVE
    fleet.stores.jobs.damaged_bodies.clear()
    await fleet.run("escalate")
    assert (await fleet.job(damaged)).state is JobState.COMPLETED
    assert set(fleet.provider.bought.values()) == {1}
    assert fleet.provider.requests["find_batches"] == 0


async def test_a_batch_that_is_uploaded_goes_out_though_its_calls_cannot_be_read() -> None:
    fleet = Fleet(instances=2)
    fleet.provider.batch_models = {"gpt-4o-mini": "mini-batch"}
    damaged, *_ = await fleet.flush(12)
    fleet.will("create", "busy")
    await fleet.run("submit")
    assert (await fleet.batch()).input_file_id is not None

    # The other instance has not got the key that it is sealed with.
    fleet.stores.jobs.damaged_bodies.add(damaged)
    await fleet.wait(timedelta(seconds=30), "submit", position=1)
    await fleet.answer()

    assert await fleet.states() == {JobState.COMPLETED: 12}


async def test_a_call_that_another_instance_can_read_stays_in_its_batch() -> None:
    fleet = Fleet()
    damaged, *_ = await fleet.flush(12)
    fleet.stores.jobs.damaged_bodies.add(damaged)
    for _ in range(UNREAD_TRIES - 1):
        await fleet.wait(timedelta(seconds=30), "submit")

    fleet.stores.jobs.damaged_bodies.clear()
    await fleet.wait(timedelta(seconds=30), "submit")

    assert len(fleet.provider.batches["batch_1"].lines) == 12
