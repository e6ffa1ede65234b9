"""The end of batches: every finished answer is kept, only the rest is bought again."""

from collections.abc import Sequence
from copy import deepcopy
from datetime import timedelta

import pytest
import structlog

from proxy.core.batch import BatchState
from proxy.core.batch_ends import TOO_MANY_TOKENS
from proxy.core.ids import CredentialId, JobId
from proxy.core.job import JobState
from proxy.core.lanes import Lane
from tests.helpers.fake_provider import right_answer
from tests.helpers.fleet import Fleet

CREDENTIAL = CredentialId("credential-1")
TOKEN = "Bearer credential-1"
MINUTE = timedelta(minutes=1)


async def test_a_completed_batch_ends_every_job_with_its_own_answer_and_is_cleaned_up() -> None:
    fleet = Fleet()
    job_ids = await fleet.submit(12)

    await fleet.answer()

    for job_id in job_ids:
        result = await fleet.stores.jobs.result(job_id)
        assert result is not None
        assert (result.status_code, result.body) == (200, right_answer(fleet.bodies[job_id]))
    batch = await fleet.batch()
    assert (batch.state, batch.end_reason) == (BatchState.SETTLED, "completed")
    assert fleet.provider.files == {}
    assert fleet.provider.batches["batch_1"].deleted
    assert fleet.tally.counts["job_ended"] == 12
    assert fleet.doubles() == (0, 0)


@pytest.mark.parametrize("answered", [True, False])
async def test_a_job_that_cannot_be_read_keeps_no_other_from_its_answer(answered: bool) -> None:
    fleet = Fleet()
    if not answered:
        fleet.provider.fail_next.append((TOO_MANY_TOKENS, None))
    damaged, *others = await fleet.submit(12)
    fleet.stores.jobs.damaged.add(damaged)

    with structlog.testing.capture_logs() as said:
        await fleet.answer()

    (told,) = [line for line in said if line["event"] == "step.failed"]
    assert damaged in told["error"]
    states = {(await fleet.job(one)).state for one in others}
    assert states == {JobState.COMPLETED if answered else JobState.QUEUED}
    assert (await fleet.batch()).state is BatchState.ENDED
    asked = dict(fleet.provider.requests)
    await fleet.poll()
    assert fleet.provider.requests == asked

    fleet.stores.jobs.damaged.clear()
    await fleet.poll(minutes=5)
    assert (await fleet.job(damaged)).state in states
    assert (await fleet.batch()).state is BatchState.SETTLED
    assert (await fleet.booked()).useless == 0
    assert set(fleet.provider.bought.values()) <= {1}


async def test_results_are_read_ever_more_seldom_for_a_job_that_cannot_be_read() -> None:
    fleet = Fleet()
    damaged, *_ = await fleet.submit(12)
    fleet.stores.jobs.damaged.add(damaged)
    await fleet.answer()

    for _ in range(24 * 12):
        await fleet.poll(minutes=5)

    assert 20 < fleet.provider.requests["results"] < 60


async def test_a_job_that_cannot_be_read_teaches_nothing_again_and_again() -> None:
    fleet = Fleet()
    fleet.provider.fail_next.append((TOO_MANY_TOKENS, None))
    damaged, *_ = await fleet.submit(12, tokens=100)
    fleet.stores.jobs.damaged.add(damaged)

    for _ in range(4):
        await fleet.poll(minutes=5)

    governor = fleet.instances[0].governor
    assert (governor.max_tokens((CREDENTIAL, "gpt-4o-mini"), now=fleet.clock.now()) or 0) >= 600


async def test_a_completed_batch_with_only_an_error_file_is_read_like_any_other() -> None:
    fleet = Fleet()
    fleet.provider.answer_line = lambda *_: (400, b'{"error":{"code":"bad"}}')
    await fleet.submit(12)

    await fleet.answer()

    jobs = await fleet.jobs()
    assert {job.state for job in jobs} == {JobState.FAILED}
    assert {job.outcome and job.outcome.error_code for job in jobs} == {"bad"}


async def test_too_many_tokens_halve_the_next_batches_of_this_model_after_a_rest() -> None:
    fleet = Fleet()
    fleet.provider.fail_next.append((TOO_MANY_TOKENS, None))
    await fleet.submit(12, tokens=100)

    await fleet.poll()
    await fleet.run("flush")
    assert {job.state for job in await fleet.jobs()} == {JobState.QUEUED}
    assert {job.failures for job in await fleet.jobs()} == {0}
    fleet.clock.advance(seconds=60)
    await fleet.run("live", "flush", "submit")

    sizes = [len(batch.lines) for batch in fleet.provider.batches.values()]
    assert sizes[:2] == [12, 6]


async def test_the_rest_after_too_many_tokens_leaves_other_models_alone() -> None:
    fleet = Fleet()
    fleet.provider.fail_next.append((TOO_MANY_TOKENS, None))
    await fleet.submit(12, tokens=100)
    await fleet.poll()

    governor = fleet.instances[0].governor
    assert governor.resting_until((CREDENTIAL, "gpt-4o-mini")) is not None
    assert governor.resting_until((CREDENTIAL, "gpt-4o")) is None
    assert governor.max_tokens((CREDENTIAL, "gpt-4o"), now=fleet.clock.now()) is None


async def test_a_model_that_is_not_batched_is_called_directly_and_remembered() -> None:
    fleet = Fleet()
    fleet.provider.fail_next.append(("model_not_found", None))
    await fleet.submit(12)

    await fleet.poll()

    jobs = await fleet.jobs()
    assert {(job.lane, job.failures) for job in jobs} == {(Lane.INTERACTIVE, 0)}
    known = await fleet.stores.unbatchable.known(now=fleet.clock.now())
    assert set(known) == {(CREDENTIAL, "/v1/chat/completions", "gpt-4o-mini")}
    await fleet.run_for(timedelta(seconds=10), step=timedelta(seconds=2))
    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert not await fleet.stores.unbatchable.known(now=fleet.clock.now() + timedelta(hours=24))


@pytest.mark.parametrize("code", ["billing_hard_limit_reached", "insufficient_quota"])
async def test_an_unpaid_bill_pauses_the_credential_and_burns_no_job(code: str) -> None:
    fleet = Fleet()
    fleet.provider.fail_next.append((code, None))
    await fleet.submit(12)

    await fleet.poll()

    credential = await fleet.stores.credentials.get(CREDENTIAL)
    assert credential is not None
    assert credential.paused_at is not None
    jobs = await fleet.jobs()
    assert {(job.state, job.lane, job.failures) for job in jobs} == {
        (JobState.QUEUED, Lane.BATCH, 0)
    }
    fleet.clock.advance(hours=1)
    await fleet.run("live", "flush", "submit", "escalate")
    assert fleet.provider.requests["create"] == 1
    assert fleet.tally.counts["credential_paused"] == 1


async def test_reading_again_after_a_crash_changes_nothing_and_counts_nothing_twice() -> None:
    """Die at every step of settling in turn: the ends, the counts and the bill stay the same."""
    for steps in range(40):
        fleet = Fleet()
        job_ids = await fleet.submit(8)
        await fleet.cancel(job_ids[0])
        fleet.clock.advance(minutes=7)
        await fleet.run("live")
        fleet.instances[0].steps_left = steps
        survived = await fleet.instances[0].run("collect")
        ended = {job.id: job.finalized_at for job in await fleet.jobs() if job.state.is_terminal}

        fleet.kill(0)
        fleet.clock.advance(minutes=5)
        await fleet.run("live", "collect")

        assert await fleet.states() == {JobState.COMPLETED: 7, JobState.CANCELLED: 1}
        for job_id, at in ended.items():
            assert (await fleet.job(job_id)).finalized_at == at
        assert set(fleet.provider.bought.values()) == {1}
        assert fleet.tally.counts["possible_double"] == 0
        # A useless answer is counted before its line is noted as read: at most twice.
        assert 1 <= fleet.tally.counts["late_result"] <= 2
        if survived:
            return
    raise AssertionError("the pass never came to its end")


async def test_a_file_that_cannot_be_deleted_keeps_no_batch_from_being_settled() -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.will("delete_file", "rejected", "refused")

    await fleet.answer()

    assert (await fleet.batch()).state is BatchState.SETTLED


async def test_a_settled_batch_forgets_its_items() -> None:
    fleet = Fleet()
    job_ids = await fleet.submit(12)
    batch = await fleet.batch()
    names = [(job_id, 1) for job_id in job_ids]
    assert len(await fleet.stores.batches.issued(batch.id, names)) == 12

    await fleet.answer()

    assert not await fleet.stores.batches.issued(batch.id, names)


async def test_a_batch_that_no_key_may_read_is_given_up_a_week_after_the_last_deadline() -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.provider.revoked.add(TOKEN)

    await fleet.run_for(timedelta(hours=27), step=timedelta(minutes=10))
    assert await fleet.states() == {JobState.FAILED: 12}
    assert (await fleet.batch()).state is BatchState.IN_PROGRESS
    await fleet.run_for(timedelta(days=7), step=timedelta(hours=2))

    batch = await fleet.batch()
    assert (batch.state, batch.end_reason) == (BatchState.SETTLED, "unreadable")
    assert (await fleet.booked()).possible_doubles == 12


# A store that may lose what it has taken last


async def assert_bought_once(fleet: Fleet, job_ids: Sequence[JobId]) -> None:
    """Let the time pass for which files are kept, and find each job answered, once."""
    await fleet.poll(minutes=2)
    await fleet.poll(minutes=2)
    assert await fleet.states() == {JobState.COMPLETED: len(job_ids)}
    for job_id in job_ids:
        result = await fleet.stores.jobs.result(job_id)
        assert result is not None
        assert result.body == right_answer(fleet.bodies[job_id])
    assert set(fleet.provider.bought.values()) == {1}
    assert fleet.doubles() == (0, 0)
    assert (await fleet.batch()).state is BatchState.SETTLED
    assert fleet.provider.files == {}


async def test_files_are_kept_while_the_store_may_lose_what_was_read_from_them() -> None:
    fleet = Fleet(setback=MINUTE)
    job_ids = await fleet.submit(12)

    await fleet.answer()
    read_at = fleet.clock.now()

    assert await fleet.states() == {JobState.COMPLETED: 12}
    await fleet.poll(seconds=55)
    batch = await fleet.batch()
    assert (batch.state, batch.next_at) == (BatchState.ENDED, read_at + MINUTE)
    assert fleet.provider.requests["results"] == 1
    assert fleet.provider.files != {}
    await assert_bought_once(fleet, job_ids)
    assert fleet.provider.requests["results"] == 1


async def test_files_are_not_kept_until_the_old_time_of_a_clock_that_was_set_back() -> None:
    fleet = Fleet(setback=MINUTE)
    job_ids = await fleet.submit(12)
    await fleet.answer()
    assert (await fleet.batch()).state is BatchState.ENDED

    fleet.clock.set(hours=-6)

    await assert_bought_once(fleet, job_ids)


async def test_results_that_the_whole_store_has_lost_are_read_again() -> None:
    fleet = Fleet(setback=MINUTE)
    job_ids = await fleet.submit(12)
    replica = deepcopy(fleet.stores)
    await fleet.answer()
    await fleet.poll(seconds=10)

    fleet.stores = replica
    fleet.kill(0)

    await assert_bought_once(fleet, job_ids)


async def test_results_that_one_node_of_a_cluster_has_lost_are_read_again() -> None:
    fleet = Fleet(setback=MINUTE)
    job_ids = await fleet.submit(12)
    submitted = [await fleet.job(job_id) for job_id in job_ids[:5]]
    await fleet.answer()

    fleet.stores.jobs.set_back(submitted)
    await fleet.poll(seconds=50)
    assert await fleet.states() == {JobState.COMPLETED: 7, JobState.BATCHED: 5}

    await assert_bought_once(fleet, job_ids)
    assert fleet.provider.requests["results"] == 2
