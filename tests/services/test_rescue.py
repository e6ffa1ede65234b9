"""Jobs that nobody else cares for: orphans, overdue ones, those of refused keys."""

from datetime import timedelta

import structlog

from proxy.core.batch import BatchState
from proxy.core.ids import CredentialId, InstanceId, JobId
from proxy.core.job import Escalated, JobState, advance
from proxy.core.lanes import Lane
from proxy.ports.jobs import JobWrite
from proxy.services.rescue import LOST_FOR, PROBE_EVERY, Rescuer
from tests.helpers.fleet import LEASE, Fleet

CREDENTIAL = CredentialId("credential-1")
TOKEN = "Bearer credential-1"
REVOKED = b'{"error":"revoked"}'


async def dies_in_its_call(fleet: Fleet) -> None:
    """Let the first instance die with a direct call under way, and be replaced."""

    async def killed() -> None:
        fleet.instances[0].steps_left = 0

    fleet.provider.in_the_middle["call"] = killed
    assert not await fleet.instances[0].run("escalate")
    fleet.kill(0)


async def test_the_calls_of_a_dead_instance_are_given_back_as_possible_doubles() -> None:
    fleet = Fleet(instances=2)
    job_id = await fleet.accept(deadline=timedelta(minutes=20))
    await fleet.run("live")
    await dies_in_its_call(fleet)

    await fleet.run("live", "rescue", position=1)
    assert (await fleet.job(job_id)).state is JobState.ESCALATING
    fleet.clock.advance(seconds=LEASE.total_seconds())
    await fleet.run("live", "rescue", position=1)

    job = await fleet.job(job_id)
    assert (job.state, job.possible_doubles) == (JobState.QUEUED, 1)
    assert job.last_reason == "its instance died"
    await fleet.run("escalate", position=1)
    assert (await fleet.job(job_id)).state is JobState.COMPLETED
    assert fleet.doubles() == (1, 1)


async def test_a_queue_that_cannot_be_read_keeps_no_other_job_from_its_end() -> None:
    fleet = Fleet()
    lost = await fleet.accept(credential="a")
    other = await fleet.accept(credential="b")
    fleet.stores.queue.damaged.add((await fleet.job(lost)).key)
    fleet.clock.advance(hours=27)

    with structlog.testing.capture_logs() as said:
        await fleet.run("live", "rescue", "rescue")

    assert (await fleet.job(other)).state is JobState.EXPIRED
    assert (await fleet.job(lost)).state is JobState.QUEUED
    assert [line["credential"] for line in said if line["event"] == "job.unread"] == ["a"]


async def test_the_calls_of_those_who_live_are_left_alone() -> None:
    fleet = Fleet(instances=2)
    await fleet.accept(deadline=timedelta(minutes=20))

    async def looked_at() -> None:
        await fleet.run("live")
        await fleet.run("live", "rescue", position=1)

    fleet.provider.in_the_middle["call"] = looked_at
    await fleet.run("live", "escalate")

    assert await fleet.states() == {JobState.COMPLETED: 1}
    assert fleet.doubles() == (0, 0)


async def test_setting_the_clock_forward_buys_no_call_again_that_is_under_way() -> None:
    fleet = Fleet(instances=2)
    await fleet.accept(deadline=timedelta(minutes=20))
    await fleet.run("live", position=1)

    async def set_forward() -> None:
        fleet.clock.set(minutes=5)
        await fleet.run("rescue")
        await fleet.run("rescue", position=1)

    fleet.provider.in_the_middle["call"] = set_forward
    await fleet.run("live", "escalate")

    assert await fleet.states() == {JobState.COMPLETED: 1}
    assert fleet.doubles() == (0, 0)


async def test_the_jobs_of_a_batch_that_the_store_lost_are_given_back_as_possible_doubles() -> None:
    fleet = Fleet()
    fleet.provider.stalled = True
    await fleet.submit(12)
    fleet.stores.batches.lose_all()

    await fleet.run("live", "rescue")
    fleet.clock.advance(seconds=LOST_FOR.total_seconds() - 1)
    await fleet.run("live", "rescue")
    assert await fleet.states() == {JobState.BATCHED: 12}
    fleet.clock.advance(seconds=1)
    await fleet.run("live", "rescue")

    assert await fleet.states() == {JobState.QUEUED: 12}
    assert fleet.tally.counts["possible_double"] == 12
    assert await fleet.stores.batches.lost() == []


async def test_the_jobs_of_a_batch_that_cannot_be_read_end_long_after_their_deadlines() -> None:
    fleet = Fleet()
    fleet.provider.stalled = True
    await fleet.submit(12)
    batch = await fleet.batch()
    (deadline,) = {job.deadline for job in await fleet.stores.jobs.get_many(list(fleet.bodies))}
    fleet.stores.batches.damaged.add(batch.id)
    left = deadline - fleet.clock.now()

    # Another instance may read it, and answer late what is paid for.
    fleet.clock.advance(seconds=(left + timedelta(hours=24)).total_seconds())
    await fleet.run("live", "rescue")
    assert await fleet.states() == {JobState.BATCHED: 12}
    fleet.clock.advance(seconds=3600)
    await fleet.run("live", "rescue")

    assert await fleet.states() == {JobState.EXPIRED: 12}
    assert fleet.tally.counts["possible_double"] == 12


async def test_a_job_of_a_lost_batch_that_cannot_be_read_waits_and_holds_up_no_other() -> None:
    fleet = Fleet()
    fleet.provider.stalled = True
    damaged, *others = await fleet.submit(12)
    overdue = await fleet.accept(deadline=timedelta(minutes=5))
    fleet.stores.batches.lose_all()
    fleet.stores.jobs.damaged.add(damaged)

    await fleet.run("live", "rescue")
    fleet.clock.advance(seconds=LOST_FOR.total_seconds())
    await fleet.run("live", "rescue")

    assert {(await fleet.job(one)).state for one in others} == {JobState.QUEUED}
    assert (await fleet.job(overdue)).state is JobState.EXPIRED
    fleet.stores.jobs.damaged.clear()
    assert (await fleet.job(damaged)).state is JobState.BATCHED
    await fleet.run("rescue")
    assert (await fleet.job(damaged)).state is JobState.QUEUED
    assert await fleet.stores.batches.lost() == []


async def test_a_batch_that_the_store_knows_again_keeps_its_jobs() -> None:
    fleet = Fleet()
    fleet.provider.stalled = True
    await fleet.submit(12)
    batch = await fleet.batch()
    fleet.stores.batches.lose_all()
    await fleet.run("live", "rescue")

    await fleet.stores.batches.add(batch)
    fleet.clock.advance(seconds=LOST_FOR.total_seconds())
    await fleet.run("live", "rescue")
    fleet.stores.batches.lose_all()
    await fleet.run("live", "rescue")

    assert await fleet.states() == {JobState.BATCHED: 12}


async def test_the_calls_of_a_large_fleet_do_not_hide_an_orphan() -> None:
    fleet = Fleet(instances=2)
    await fleet.run("live", position=1)
    living = fleet.instances[1].ground.leases.instance
    job_ids = await fleet.accept_many(1_500)
    holders = dict.fromkeys(job_ids, living) | {job_ids[-1]: InstanceId("dead")}
    jobs = await fleet.stores.jobs.get_many(job_ids)
    await fleet.stores.jobs.replace_many(
        [JobWrite(advance(job, Escalated(holders[job.id]))) for job in jobs]
    )

    await fleet.run("live", "rescue")

    assert await fleet.states() == {JobState.ESCALATING: 1_499, JobState.QUEUED: 1}
    assert (await fleet.job(job_ids[-1])).possible_doubles == 1


async def test_an_overdue_job_with_nothing_in_flight_expires() -> None:
    fleet = Fleet()
    await fleet.accept(deadline=timedelta(minutes=5))

    fleet.clock.advance(minutes=5)
    await fleet.run("live", "rescue")
    assert await fleet.states() == {JobState.QUEUED: 1}
    fleet.clock.advance(seconds=1)
    await fleet.run("live", "rescue")

    assert await fleet.states() == {JobState.EXPIRED: 1}
    assert fleet.tally.counts["deadline_missed"] == 1
    assert fleet.provider.bought.total() == 0


async def test_a_batched_job_never_expires() -> None:
    fleet = Fleet()
    fleet.provider.stalled = True
    await fleet.submit(12, deadline=timedelta(hours=3))

    fleet.clock.advance(hours=5)
    await fleet.run("live", "rescue")

    assert await fleet.states() == {JobState.BATCHED: 12}


async def test_overdue_jobs_end_a_bounded_number_per_pass() -> None:
    fleet = Fleet()
    await fleet.accept_many(1_050, deadline=timedelta(minutes=5))

    fleet.clock.advance(minutes=6)
    await fleet.run("live", "rescue")
    assert await fleet.states() == {JobState.EXPIRED: 1_000, JobState.QUEUED: 50}
    await fleet.run("rescue")

    assert await fleet.states() == {JobState.EXPIRED: 1_050}


async def test_a_queued_job_of_a_refused_key_fails_at_its_deadline_with_the_refusal() -> None:
    fleet = Fleet()
    job_id = await fleet.accept()
    await fleet.stores.credentials.pause(CREDENTIAL, at=fleet.clock.now(), status=401, body=REVOKED)
    fleet.provider.revoked.add(TOKEN)

    await fleet.run_for(timedelta(hours=25, minutes=59), step=timedelta(minutes=30))
    assert await fleet.states() == {JobState.QUEUED: 1}
    await fleet.run_for(timedelta(hours=1), step=timedelta(minutes=30))

    await _has_failed_with_the_refusal(fleet, job_id)
    assert fleet.provider.bought.total() == 0


async def test_a_batched_job_of_a_refused_key_fails_at_its_deadline_and_not_before() -> None:
    fleet = Fleet()
    fleet.provider.stalled = True
    near = await fleet.accept(deadline=timedelta(hours=3))
    far = await fleet.accept(deadline=timedelta(hours=26))
    await fleet.submit(1)
    fleet.provider.revoked.add(TOKEN)

    await fleet.run_for(timedelta(hours=2, minutes=55), step=timedelta(minutes=5))
    assert (await fleet.states())[JobState.FAILED] == 0
    await fleet.run_for(timedelta(minutes=10), step=timedelta(minutes=5))

    await _has_failed_with_the_refusal(fleet, near)
    assert (await fleet.job(far)).state is JobState.BATCHED


async def test_what_a_refused_key_bought_is_counted_when_it_comes_back() -> None:
    fleet = Fleet()
    await fleet.submit(12, deadline=timedelta(hours=3))
    fleet.provider.revoked.add(TOKEN)
    await fleet.run_for(timedelta(hours=4), step=timedelta(minutes=5))
    assert await fleet.states() == {JobState.FAILED: 12}

    fleet.provider.revoked.clear()
    await fleet.run_for(timedelta(minutes=20), step=timedelta(minutes=5))

    assert fleet.provider.bought.total() == 12
    assert fleet.tally.counts["late_result"] == 12


async def test_a_pause_alone_fails_no_job_whose_batch_can_be_read() -> None:
    """An unpaid bill stops buying; what is in flight completes, if late."""
    fleet = Fleet()
    fleet.provider.stalled = True
    fleet.provider.cancel_time = timedelta(hours=1)
    await fleet.submit(12, deadline=timedelta(minutes=80))
    await fleet.stores.credentials.pause(
        CREDENTIAL, at=fleet.clock.now(), status=429, body=b"unpaid"
    )

    await fleet.run_for(timedelta(minutes=90), step=timedelta(minutes=2))
    assert (await fleet.states())[JobState.FAILED] == 0
    await fleet.run_for(timedelta(hours=1), step=timedelta(minutes=2))

    assert (await fleet.states())[JobState.COMPLETED] == 6


async def test_the_owners_other_key_that_reads_the_batch_keeps_its_jobs_from_failing() -> None:
    fleet = Fleet()
    fleet.provider.stalled = True
    fleet.provider.cancel_time = timedelta(hours=1)
    await fleet.add_credential("credential-9")
    fleet.provider.projects = {TOKEN: "p", "Bearer credential-9": "p"}
    await fleet.submit(12, deadline=timedelta(minutes=80))
    fleet.provider.revoked.add(TOKEN)

    await fleet.run_for(timedelta(minutes=90), step=timedelta(minutes=2))

    assert await fleet.states() == {JobState.BATCHED: 12}


async def test_a_refusal_without_a_body_is_a_401_without_a_result() -> None:
    fleet = Fleet()
    job_id = await fleet.accept(deadline=timedelta(hours=2))
    await fleet.stores.credentials.pause(CREDENTIAL, at=fleet.clock.now(), status=None, body=None)
    fleet.provider.revoked.add(TOKEN)

    await fleet.run_for(timedelta(hours=3), step=timedelta(minutes=10))

    job = await fleet.job(job_id)
    assert job.state is JobState.FAILED
    assert job.outcome is not None
    assert job.outcome.status_code == 401
    assert await fleet.stores.jobs.result(job_id) is None


async def test_a_batched_job_whose_credential_is_lost_fails_at_its_deadline() -> None:
    """As where a failover took it, and its caller came no more."""
    fleet = Fleet()
    await fleet.submit(12, deadline=timedelta(hours=3))
    del fleet.stores.credentials._known[CREDENTIAL]

    await fleet.run_for(timedelta(hours=2, minutes=55), step=timedelta(minutes=5))
    assert await fleet.states() == {JobState.BATCHED: 12}
    await fleet.run_for(timedelta(minutes=10), step=timedelta(minutes=5))

    assert await fleet.states() == {JobState.FAILED: 12}
    await fleet.run_for(timedelta(days=40), step=timedelta(days=1))
    assert (await fleet.batch()).state is BatchState.SETTLED
    assert (await fleet.booked()).possible_doubles == 12


async def test_a_paused_key_is_tried_again_for_free_until_it_is_let_in() -> None:
    fleet = Fleet()
    await fleet.submit(12)
    await fleet.stores.credentials.pause(CREDENTIAL, at=fleet.clock.now(), status=401, body=None)
    fleet.provider.revoked.add(TOKEN)
    await fleet.run("rescue")
    fleet.provider.revoked.clear()

    fleet.clock.advance(seconds=PROBE_EVERY.total_seconds() - 1)
    await fleet.run("live", "rescue")
    assert (await _credential(fleet)).paused_at is not None
    fleet.clock.advance(seconds=1)
    await fleet.run("live", "rescue")

    assert (await _credential(fleet)).paused_at is None
    assert (await _credential(fleet)).succeeded_at == fleet.clock.now()


async def test_a_resumed_credential_goes_on_where_it_stopped() -> None:
    fleet = Fleet()
    await fleet.accept_many(12)
    await fleet.stores.credentials.pause(CREDENTIAL, at=fleet.clock.now(), status=401, body=None)
    fleet.provider.revoked.add(TOKEN)
    await fleet.run_for(timedelta(hours=1), step=timedelta(minutes=5))
    assert fleet.provider.requests["upload"] == 0

    fleet.provider.revoked.clear()
    await fleet.run_for(timedelta(hours=1), step=timedelta(minutes=5))

    assert await fleet.states() == {JobState.COMPLETED: 12}


async def test_jobs_of_a_paused_credential_that_cannot_be_read_end_at_their_deadlines() -> None:
    fleet = Fleet()
    lost = await fleet.accept(deadline=timedelta(minutes=5))
    other = await fleet.accept(deadline=timedelta(minutes=6), credential="other")
    await fleet.stores.credentials.pause(CREDENTIAL, at=fleet.clock.now(), status=401, body=None)
    fleet.stores.credentials.damaged.add(CREDENTIAL)
    fleet.clock.advance(minutes=7)

    await fleet.run("rescue")

    for job_id in (lost, other):
        assert (await fleet.job(job_id)).state is JobState.EXPIRED


async def test_only_one_instance_rescues_at_a_time() -> None:
    fleet = Fleet(instances=2)
    await fleet.accept(deadline=timedelta(minutes=5))
    fleet.clock.advance(minutes=6)

    async with fleet.instances[0].leases.held("pass:rescue"):
        await fleet.run("rescue", position=1)
        assert await fleet.states() == {JobState.QUEUED: 1}
    await fleet.run("rescue", position=1)

    assert await fleet.states() == {JobState.EXPIRED: 1}


async def test_whoever_waits_is_woken_by_an_end_without_an_answer() -> None:
    fleet = Fleet()
    here = fleet.instances[0]
    woken = here.watch_wakes()
    job_id = await fleet.accept(deadline=timedelta(minutes=5))
    fleet.clock.advance(minutes=6)

    moved = await Rescuer(here.ground, waiters=here.waiters, verify=fleet.verify).run_once()

    assert moved == 1
    assert woken == [job_id]
    assert (await fleet.job(job_id)).lane is Lane.INTERACTIVE


async def _has_failed_with_the_refusal(fleet: Fleet, job_id: JobId) -> None:
    job = await fleet.job(job_id)
    result = await fleet.stores.jobs.result(job_id)
    assert job.state is JobState.FAILED
    assert job.outcome is not None
    assert (job.outcome.status_code, job.outcome.error_code) == (401, "credential_paused")
    assert result is not None
    assert (result.status_code, result.body) == (401, REVOKED)


async def _credential(fleet: Fleet):
    credential = await fleet.stores.credentials.get(CREDENTIAL)
    assert credential is not None
    return credential
