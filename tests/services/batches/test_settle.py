"""The end of batches: every finished answer is kept, only the rest is bought again."""

from collections import deque
from datetime import timedelta

import pytest

from proxy.core.batch import BatchState
from proxy.core.ids import CredentialId
from proxy.core.job import JobState
from proxy.core.lanes import Lane
from proxy.core.outcomes import TOO_MANY_TOKENS
from proxy.ports.provider import LineKind, ResultLine
from proxy.services.batches.settle import SWEEP_FOR
from proxy.services.batches.submit import SKEW
from tests.helpers.fake_provider import right_answer
from tests.helpers.fleet import Fleet

CREDENTIAL = CredentialId("credential-1")
TOKEN = "Bearer credential-1"


async def polled(fleet: Fleet, **delta: float) -> None:
    fleet.clock.advance(**(delta or {"seconds": 10}))
    await fleet.run("live", "collect")


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


@pytest.mark.parametrize("status", ["expired", "cancelled", "failed"])
async def test_what_a_batch_finished_before_its_end_is_kept(status: str) -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.provider.finish("batch_1", status, executed=5)

    await polled(fleet)

    assert await fleet.states() == {JobState.COMPLETED: 5, JobState.QUEUED: 7}
    assert set(fleet.provider.bought.values()) == {1}


async def test_lines_that_were_not_executed_wait_again_free_of_charge() -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.provider.finish("batch_1", "expired", executed=0)

    await polled(fleet)

    jobs = await fleet.jobs()
    assert {(job.state, job.lane, job.failures, job.possible_doubles) for job in jobs} == {
        (JobState.QUEUED, Lane.BATCH, 0, 0)
    }
    assert {job.last_reason for job in jobs} == {"batch_expired"}
    assert fleet.tally.counts["possible_double"] == 0


async def test_a_completed_batch_with_only_an_error_file_is_read_like_any_other() -> None:
    fleet = Fleet()
    fleet.provider.answer_line = lambda *_: (400, b'{"error":{"code":"bad"}}')
    await fleet.submit(12)

    await fleet.answer()

    jobs = await fleet.jobs()
    assert {job.state for job in jobs} == {JobState.FAILED}
    assert {job.outcome and job.outcome.error_code for job in jobs} == {"bad"}


async def test_a_lost_line_is_counted_as_a_possible_double_and_bought_again() -> None:
    fleet = Fleet()
    job_ids = await fleet.submit(12)
    lost = fleet.bodies[job_ids[3]]
    fleet.provider.answer_line = lambda _, body: None if body == lost else (200, right_answer(body))

    await fleet.answer()

    job = await fleet.job(job_ids[3])
    assert (job.state, job.possible_doubles, job.failures) == (JobState.QUEUED, 1, 1)
    assert job.last_reason == "completed"
    assert fleet.tally.counts["possible_double"] == 1
    assert await fleet.states() == {JobState.COMPLETED: 11, JobState.QUEUED: 1}


async def test_a_possible_double_is_counted_once_and_not_at_each_later_release() -> None:
    fleet = Fleet()
    job_ids = await fleet.submit(12)
    lost = fleet.bodies[job_ids[3]]
    fleet.provider.answer_line = lambda _, body: None if body == lost else (200, right_answer(body))
    await fleet.answer()
    fleet.provider.fail_next.append((TOO_MANY_TOKENS, None))

    fleet.clock.advance(minutes=20)
    await fleet.run("live", "flush", "submit")
    await polled(fleet)

    job = await fleet.job(job_ids[3])
    assert (job.last_reason, job.possible_doubles) == (TOO_MANY_TOKENS, 1)
    assert fleet.tally.counts["possible_double"] == 1


async def test_one_bad_line_is_isolated_and_the_rest_is_batched_again() -> None:
    fleet = Fleet()
    fleet.provider.fail_next.append(("invalid_json_line", 4))
    job_ids = await fleet.submit(12)

    await polled(fleet)

    lanes = [(await fleet.job(job_id)).lane for job_id in job_ids]
    assert lanes == [Lane.BATCH] * 3 + [Lane.INTERACTIVE] + [Lane.BATCH] * 8
    assert {job.failures for job in await fleet.jobs() if job.lane is Lane.BATCH} == {0}
    assert (await fleet.job(job_ids[3])).last_reason == "invalid_json_line"
    await fleet.run_for(timedelta(hours=1), step=timedelta(minutes=2))
    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert fleet.provider.requests["call"] == 1
    assert fleet.doubles() == (0, 0)


async def test_a_line_is_blamed_on_nobody_where_jobs_before_it_ended_since() -> None:
    fleet = Fleet()
    fleet.provider.fail_next += [("invalid_json_line", 4), ("invalid_json_line", 3)]
    job_ids = await fleet.submit(12)
    await fleet.cancel(job_ids[0])

    await polled(fleet)
    assert {(await fleet.job(job_id)).lane for job_id in job_ids[1:]} == {Lane.BATCH}

    await fleet.run("live", "flush", "submit")
    await polled(fleet)
    lanes = [(await fleet.job(job_id)).lane for job_id in job_ids[1:]]
    assert lanes == [Lane.BATCH] * 2 + [Lane.INTERACTIVE] + [Lane.BATCH] * 8
    assert {job.failures for job in await fleet.jobs() if job.lane is Lane.BATCH} == {0}


async def test_the_bad_line_is_found_in_a_batch_that_lost_jobs_before_its_upload() -> None:
    fleet = Fleet()
    fleet.provider.fail_next.append(("invalid_json_line", 4))
    job_ids = [await fleet.accept() for _ in range(12)]
    fleet.clock.advance(minutes=20)
    await fleet.run("live", "flush")
    await fleet.cancel(job_ids[0])
    await fleet.run("live", "submit")

    await polled(fleet)

    lanes = [(await fleet.job(job_id)).lane for job_id in job_ids]
    assert lanes == [Lane.BATCH] * 4 + [Lane.INTERACTIVE] + [Lane.BATCH] * 7


async def test_the_bad_line_is_found_in_a_batch_of_many_chunks() -> None:
    fleet = Fleet()
    fleet.provider._max_requests = 5_000
    fleet.provider.fail_next.append(("invalid_json_line", 1_203))
    job_ids = await fleet.submit(1_300)

    await polled(fleet)

    assert (await fleet.job(job_ids[1_202])).lane is Lane.INTERACTIVE
    lanes = [job.lane for job in await fleet.jobs()]
    assert lanes.count(Lane.INTERACTIVE) == 1


async def test_a_line_number_beyond_the_end_isolates_nobody() -> None:
    fleet = Fleet()
    fleet.provider.fail_next.append(("invalid_json_line", 99))
    await fleet.submit(12)

    await polled(fleet)

    assert {job.lane for job in await fleet.jobs()} == {Lane.BATCH}
    assert {job.failures for job in await fleet.jobs()} == {0}


async def test_too_many_tokens_halve_the_next_batches_of_this_model_after_a_rest() -> None:
    fleet = Fleet()
    fleet.provider.fail_next.append((TOO_MANY_TOKENS, None))
    await fleet.submit(12, tokens=100)

    await polled(fleet)
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
    await polled(fleet)

    assert fleet.instances[0].governor.resting_until(CREDENTIAL, "gpt-4o-mini") is not None
    assert fleet.instances[0].governor.resting_until(CREDENTIAL, "gpt-4o") is None
    assert fleet.instances[0].governor.max_tokens(CREDENTIAL, "gpt-4o", now=fleet.clock.now()) is (
        None
    )


async def test_a_model_that_is_not_batched_is_called_directly_and_remembered() -> None:
    fleet = Fleet()
    fleet.provider.fail_next.append(("model_not_found", None))
    await fleet.submit(12)

    await polled(fleet)

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

    await polled(fleet)

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


async def test_a_result_file_that_is_late_is_asked_for_again() -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.provider.faults["results"] = deque(["rejected", "rejected"])

    await fleet.answer()
    assert (await fleet.batch()).state is BatchState.ENDED
    assert await fleet.states() == {JobState.BATCHED: 12}
    await polled(fleet, seconds=30)
    await polled(fleet, seconds=30)

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert fleet.doubles() == (0, 0)


async def test_an_error_in_the_place_of_a_result_file_costs_no_answer() -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.provider.mangle = lambda _: [ResultLine(kind=LineKind.UNREADABLE, custom_id=None)]

    await fleet.answer()
    assert (await fleet.batch()).state is BatchState.ENDED
    assert await fleet.states() == {JobState.BATCHED: 12}
    fleet.provider.mangle = lambda lines: lines
    await polled(fleet, seconds=30)

    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert set(fleet.provider.bought.values()) == {1}
    assert fleet.doubles() == (0, 0)


async def test_a_file_that_never_holds_a_result_is_given_up_and_counted() -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.provider.mangle = lambda _: [ResultLine(kind=LineKind.UNREADABLE, custom_id=None)]
    await fleet.answer()

    await polled(fleet, minutes=61)

    assert fleet.tally.counts["possible_double"] == 12
    assert await fleet.states() == {JobState.QUEUED: 12}


async def test_a_result_file_that_is_gone_for_an_hour_is_given_up_and_counted() -> None:
    fleet = Fleet()
    await fleet.submit(12)
    await _ended_without_its_file(fleet)

    await polled(fleet, minutes=58)
    assert await fleet.states() == {JobState.BATCHED: 12}
    await polled(fleet, minutes=3)

    assert {(job.state, job.possible_doubles) for job in await fleet.jobs()} == {
        (JobState.QUEUED, 1)
    }
    assert fleet.tally.counts["possible_double"] == 12
    assert (await fleet.batch()).state is BatchState.SETTLED


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
    fleet.provider.faults["delete_file"] = deque(["rejected", "refused"])

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


async def unlisted(fleet: Fleet) -> None:
    """Have a batch of 12 whose create was unclear read, and its provider's list away since."""
    fleet.provider.listing_lag = SKEW
    fleet.provider.faults["create"] = deque(["lost_after"])
    await fleet.submit(12)
    await fleet.run_for(timedelta(minutes=10), step=timedelta(seconds=30))
    assert (await fleet.batch()).harvested_at is not None
    fleet.provider.faults["find_batches"] = deque(["unavailable"] * 200)
    fleet.provider.requests["find_batches"] = 0


async def test_a_list_that_cannot_be_read_is_asked_for_again_after_a_pause() -> None:
    fleet = Fleet()
    await unlisted(fleet)

    await fleet.run_for(timedelta(hours=20), step=timedelta(minutes=5))
    assert 75 <= fleet.provider.requests["find_batches"] <= 85
    assert (await fleet.batch()).state is BatchState.ENDED
    fleet.provider.faults["find_batches"].clear()
    await fleet.run_for(timedelta(hours=6), step=timedelta(minutes=5))

    assert (await fleet.batch()).state is BatchState.SETTLED
    assert fleet.tally.counts["possible_double"] == 0


async def test_a_list_that_cannot_be_read_does_not_keep_a_batch_for_ever() -> None:
    fleet = Fleet()
    await unlisted(fleet)

    await fleet.run_for(SWEEP_FOR - timedelta(hours=1), step=timedelta(minutes=15))
    assert (await fleet.batch()).state is BatchState.ENDED
    await fleet.run_for(timedelta(hours=2), step=timedelta(minutes=15))

    assert (await fleet.batch()).state is BatchState.SETTLED
    # Nobody knows whether there is a second one.
    assert fleet.tally.counts["possible_double"] == 12


async def test_a_twin_that_vanished_does_not_keep_its_batch_for_ever() -> None:
    fleet = Fleet()
    fleet.provider.listing_lag = SKEW
    fleet.provider.faults["create"] = deque(["lost_after"])
    await fleet.submit(12)
    await fleet.run_for(timedelta(minutes=10), step=timedelta(seconds=30))
    fleet.provider.hidden.add("batch_1")

    await fleet.run_for(timedelta(hours=27), step=timedelta(minutes=5))

    batch = await fleet.batch()
    assert batch.twins == ("batch_1",)
    assert batch.state is BatchState.SETTLED


async def test_a_twin_that_cannot_be_stopped_is_read_when_it_has_ended() -> None:
    fleet = Fleet()
    fleet.provider.can_cancel = False
    fleet.provider.listing_lag = SKEW
    fleet.provider.faults["create"] = deque(["lost_after"])
    fleet.provider.turnaround = timedelta(hours=2)
    await fleet.submit(12)

    await fleet.run_for(timedelta(minutes=10), step=timedelta(seconds=30))
    await fleet.run_for(timedelta(hours=28), step=timedelta(minutes=5))

    batch = await fleet.batch()
    assert batch.state is BatchState.SETTLED
    assert batch.twins == batch.twins_read == ("batch_1",)
    assert fleet.provider.requests["cancel"] == 0
    assert set(fleet.provider.bought.values()) == {2}
    assert fleet.tally.counts["late_result"] == 12


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


async def _ended_without_its_file(fleet: Fleet) -> None:
    fleet.clock.advance(minutes=7)
    fleet.provider.faults["results"] = deque(["rejected"] * 10)
    await fleet.run("live", "collect")
    assert (await fleet.batch()).state is BatchState.ENDED
