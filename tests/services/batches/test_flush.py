"""Filling batches from the queue, fairly, and taking out what cannot wait."""

from datetime import timedelta

import structlog

from proxy.core.batch import BatchState
from proxy.core.batch_ends import INVALID_INPUT
from proxy.core.ids import CredentialId
from proxy.core.job import AnswerMode, JobState
from proxy.core.lanes import Lane
from proxy.services.batches.flush import REROUTES_PER_PASS
from tests.helpers.factories import CREDENTIAL, make_batch, make_key
from tests.helpers.fleet import Fleet

OTHER = CredentialId("credential-2")


async def batches(fleet: Fleet):
    return list(await fleet.stores.batches.recent(limit=100))


async def test_due_jobs_become_one_sealed_batch_with_its_sums() -> None:
    fleet = Fleet()
    job_ids = await fleet.accept_many(12, tokens=7)
    await fleet.run("flush")
    assert await batches(fleet) == []

    fleet.clock.advance(seconds=60)
    await fleet.run("flush")

    (batch,) = await batches(fleet)
    jobs = [await fleet.job(job_id) for job_id in job_ids]
    assert (batch.state, batch.count, batch.flush_reason) == (BatchState.SEALED, 12, "linger")
    assert batch.body_bytes == sum(map(len, fleet.bodies.values()))
    assert batch.tokens == 12 * 7
    assert batch.nearest_deadline == min(job.deadline for job in jobs)
    assert {(job.state, job.batch_id, job.attempt) for job in jobs} == {
        (JobState.BATCHED, batch.id, 1)
    }


async def test_jobs_of_an_upstream_that_only_others_know_are_left_to_them() -> None:
    fleet = Fleet()
    key = make_key(upstream="new", credential=CREDENTIAL)
    job_ids = await fleet.accept_many(12, key=key)
    await fleet.stores.batches.add(make_batch(key=key))
    fleet.clock.advance(minutes=30)

    with structlog.testing.capture_logs() as logs:
        await fleet.run("flush")
        await fleet.run("flush")

    jobs = [await fleet.job(job_id) for job_id in job_ids]
    assert {(job.state, job.lane) for job in jobs} == {(JobState.QUEUED, Lane.BATCH)}
    assert [batch.state for batch in await batches(fleet)] == [BatchState.FILLING]
    (told,) = [line for line in logs if line["event"] == "job.stranded"]
    assert (told["log_level"], told["upstream"], told["jobs"]) == ("warning", "new", 12)
    assert "deadlines" in told["hint"]


async def test_two_credentials_never_share_a_batch() -> None:
    fleet = Fleet()
    await fleet.accept_many(10)
    await fleet.flush(10, credential="credential-2")

    found = await batches(fleet)

    assert {batch.key.credential for batch in found} == {"credential-1", "credential-2"}
    assert [batch.count for batch in found] == [10, 10]


async def test_many_jobs_make_several_batches_in_one_pass() -> None:
    fleet = Fleet()
    fleet.provider._max_requests = 10

    await fleet.flush(35)

    assert sorted(batch.count for batch in await batches(fleet)) == [5, 10, 10, 10]


async def test_with_its_frames_no_input_is_larger_than_the_provider_takes() -> None:
    fleet = Fleet()
    fleet.provider._max_requests = 20
    # Twenty bodies have 650 bytes, and as lines 1,850.
    fleet.provider.max_bytes = 1_830

    await fleet.submit(60)

    inputs = [content for _, content, _ in fleet.provider.files.values()]
    assert sum(content.count(b"\n") for content in inputs) >= 20
    assert max(map(len, inputs)) <= fleet.provider.max_bytes


async def test_a_queue_that_cannot_be_read_holds_up_nobody_elses_jobs() -> None:
    fleet = Fleet()
    lost = await fleet.accept_many(12, credential="a")
    key = (await fleet.job(lost[0])).key
    fleet.stores.queue.damaged.add(key)

    with structlog.testing.capture_logs() as logs:
        first = await fleet.flush(12, credential="b")
        second = await fleet.flush(12, credential="b")

    assert {(await fleet.job(one)).state for one in first + second} == {JobState.BATCHED}
    assert {(await fleet.job(one)).state for one in lost} == {JobState.QUEUED}
    # What was begun for it goes on as soon as it can, and until then no other is begun.
    begun = [batch for batch in await batches(fleet) if batch.key == key]
    assert [batch.state for batch in begun] == [BatchState.FILLING]
    assert [line["credential"] for line in logs if line["event"] == "job.unread"] == ["a"]

    fleet.stores.queue.damaged.clear()
    await fleet.run("flush")

    assert {(await fleet.job(one)).batch_id for one in lost} == {begun[0].id}


async def test_a_queue_that_cannot_be_read_keeps_no_other_from_another_lane() -> None:
    fleet = Fleet()
    lost = await fleet.accept(credential="a")
    other = await fleet.accept(credential="b")
    fleet.stores.queue.damaged.add((await fleet.job(lost)).key)
    fleet.clock.advance(hours=25, minutes=50)

    await fleet.run("live", "flush")

    assert (await fleet.job(other)).lane is not Lane.BATCH
    assert (await fleet.job(lost)).lane is Lane.BATCH


async def test_a_flood_of_one_credential_holds_up_nobody_elses_ten() -> None:
    fleet = Fleet()
    fleet.provider._max_requests = 10
    await fleet.accept_many(300)

    await fleet.flush(10, credential="credential-2")

    found = await batches(fleet)
    assert [batch.count for batch in found if batch.key.credential == OTHER] == [10]
    assert len([batch for batch in found if batch.key.credential != OTHER]) == 20
    assert (await fleet.states())[JobState.QUEUED] == 100


async def test_a_paused_credentials_jobs_stay_and_hold_up_nobody() -> None:
    fleet = Fleet()
    paused = await fleet.accept_many(50)
    await fleet.stores.credentials.pause(
        CredentialId("credential-1"), at=fleet.clock.now(), status=401, body=None
    )

    others = await fleet.flush(10, credential="credential-2")

    assert {(await fleet.job(one)).state for one in paused} == {JobState.QUEUED}
    assert {(await fleet.job(one)).state for one in others} == {JobState.BATCHED}


async def test_when_every_caller_is_held_the_batch_goes_after_two_quiet_seconds() -> None:
    fleet = Fleet()
    await fleet.accept_many(3, answer=AnswerMode.WAIT)

    fleet.clock.advance(seconds=1)
    await fleet.run("flush")
    assert await batches(fleet) == []
    fleet.clock.advance(seconds=1)
    await fleet.run("flush")

    assert [batch.flush_reason for batch in await batches(fleet)] == ["all callers held"]


async def test_small_batches_make_the_next_one_wait_longer() -> None:
    fleet = Fleet()
    await fleet.flush(1)

    await fleet.accept()
    fleet.clock.advance(seconds=60)
    await fleet.run("flush")
    assert len(await batches(fleet)) == 1
    fleet.clock.advance(seconds=60)
    await fleet.run("flush")
    assert len(await batches(fleet)) == 2

    await fleet.flush(10)
    await fleet.flush(1)
    assert len(await batches(fleet)) == 4


async def test_what_a_dead_instance_was_filling_is_filled_on() -> None:
    fleet = Fleet(instances=2)
    job_ids = await fleet.accept_many(12)
    begun = make_batch(key=make_key(), flush_reason="linger", created_at=fleet.clock.now())
    await fleet.stores.batches.add(begun)

    await fleet.run("flush", position=1)

    (batch,) = await batches(fleet)
    assert (batch.id, batch.state, batch.count) == (begun.id, BatchState.SEALED, 12)
    assert {(await fleet.job(one)).batch_id for one in job_ids} == {begun.id}


async def test_what_a_dead_instance_was_filling_keeps_to_what_was_learned_of_tokens() -> None:
    fleet = Fleet()
    governor, now = fleet.instances[0].governor, fleet.clock.now()
    learned_at = now - timedelta(minutes=30)
    await governor.exceeded(make_key().provider_queue, 1_000, now=learned_at)
    await fleet.accept_many(20, tokens=100)
    begun = make_batch(key=make_key(), created_at=now)
    await fleet.stores.batches.add(begun)

    await fleet.run("flush")

    filled = await fleet.stores.batches.get(begun.id)
    assert filled is not None
    assert filled.tokens == 500


async def test_what_a_dead_instance_was_filling_stays_a_part_of_what_was_refused() -> None:
    fleet = Fleet()
    refused = make_batch(
        state=BatchState.SETTLED,
        count=160,
        error_code=INVALID_INPUT,
        ended_at=fleet.clock.now(),
        settled_at=fleet.clock.now(),
    )
    begun = make_batch(key=make_key(), created_at=fleet.clock.now())
    for batch in (refused, begun):
        await fleet.stores.batches.add(batch)
    await fleet.accept_many(20)

    await fleet.run("flush")

    filled = await fleet.stores.batches.get(begun.id)
    assert filled is not None
    assert filled.count == 10


async def test_a_crash_at_any_step_of_a_flush_loses_and_doubles_no_job() -> None:
    for steps in range(30):
        fleet = Fleet()
        await fleet.accept_many(12)
        fleet.clock.advance(seconds=60)
        await fleet.run("live")
        fleet.instances[0].steps_left = steps
        survived = await fleet.instances[0].run("flush")
        fleet.kill(0)
        fleet.clock.advance(seconds=20)

        await fleet.run("live", "flush", "submit")

        lines = [body for batch in fleet.provider.batches.values() for _, body in batch.lines]
        assert sorted(lines) == sorted(fleet.bodies.values())
        if survived:
            return
    raise AssertionError("the pass never came to its end")


async def test_only_one_instance_flushes_at_a_time() -> None:
    fleet = Fleet(instances=2)
    await fleet.accept_many(12)
    fleet.clock.advance(seconds=60)

    async with fleet.instances[0].leases.held("pass:flush"):
        await fleet.run("flush", position=1)
        assert await batches(fleet) == []
    await fleet.run("flush", position=1)

    assert len(await batches(fleet)) == 1


async def test_a_job_that_cannot_wait_for_a_batch_any_more_is_moved_out() -> None:
    fleet = Fleet()
    job_id = await fleet.accept(deadline=timedelta(hours=1))
    assert (await fleet.job(job_id)).lane is Lane.BATCH

    fleet.clock.advance(minutes=28)
    fleet.provider.stalled = True
    fleet.instances[0].access._providers = {}
    await fleet.run("live", "flush")

    job = await fleet.job(job_id)
    assert (job.lane, job.key.lane) == (Lane.INTERACTIVE, Lane.INTERACTIVE)
    assert job.lane_reason == "32m to the deadline; a batch needs more than 33m"


async def test_reroutes_are_bounded_per_pass() -> None:
    fleet = Fleet()
    await fleet.accept_many(REROUTES_PER_PASS + 20, deadline=timedelta(hours=1))
    fleet.instances[0].access._providers = {}
    fleet.clock.advance(minutes=28)

    await fleet.run("flush")

    lanes = [job.lane for job in await fleet.jobs()]
    assert lanes.count(Lane.INTERACTIVE) == REROUTES_PER_PASS
    await fleet.run("flush")
    assert {job.lane for job in await fleet.jobs()} == {Lane.INTERACTIVE}


async def test_released_jobs_wait_for_their_pause() -> None:
    fleet = Fleet()
    fleet.provider.answer_line = lambda *_: (500, b"{}")
    await fleet.submit(12)
    await fleet.answer()

    await fleet.run("flush")
    assert await fleet.states() == {JobState.QUEUED: 12}
    fleet.clock.advance(minutes=2)
    await fleet.run("live", "flush")

    assert await fleet.states() == {JobState.BATCHED: 12}
    assert {job.attempt for job in await fleet.jobs()} == {2}
