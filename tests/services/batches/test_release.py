"""What a batch left without an answer: given back, at whose cost, and to which lane."""

from datetime import timedelta

import pytest

from proxy.core.bad_lines import ISOLATED_MOST
from proxy.core.batch_ends import INVALID_INPUT, TOO_MANY_TOKENS
from proxy.core.errors import ProviderRejectedError
from proxy.core.job import JobState
from proxy.core.lanes import Lane
from proxy.ports.provider import ProviderBatch
from tests.helpers.fake_provider import right_answer
from tests.helpers.fleet import Fleet


@pytest.mark.parametrize("status", ["expired", "cancelled", "failed"])
async def test_what_a_batch_finished_before_its_end_is_kept(status: str) -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.provider.finish("batch_1", status, executed=5)

    await fleet.poll()

    assert await fleet.states() == {JobState.COMPLETED: 5, JobState.QUEUED: 7}
    assert set(fleet.provider.bought.values()) == {1}


async def test_lines_that_were_not_executed_wait_again_free_of_charge() -> None:
    fleet = Fleet()
    await fleet.submit(12)
    fleet.provider.finish("batch_1", "expired", executed=0)

    await fleet.poll()

    jobs = await fleet.jobs()
    assert {(job.state, job.lane, job.failures, job.possible_doubles) for job in jobs} == {
        (JobState.QUEUED, Lane.BATCH, 0, 0)
    }
    assert {job.last_reason for job in jobs} == {"batch_expired"}
    assert fleet.tally.counts["possible_double"] == 0


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
    await fleet.poll()

    job = await fleet.job(job_ids[3])
    assert (job.last_reason, job.possible_doubles) == (TOO_MANY_TOKENS, 1)
    assert fleet.tally.counts["possible_double"] == 1


async def test_one_bad_line_is_isolated_and_the_rest_is_batched_again() -> None:
    fleet = Fleet()
    fleet.provider.fail_next.append(("invalid_json_line", 4))
    job_ids = await fleet.submit(12)

    await fleet.poll()

    lanes = [(await fleet.job(job_id)).lane for job_id in job_ids]
    assert lanes == [Lane.BATCH] * 3 + [Lane.INTERACTIVE] + [Lane.BATCH] * 8
    assert {job.failures for job in await fleet.jobs() if job.lane is Lane.BATCH} == {0}
    assert (await fleet.job(job_ids[3])).last_reason == "invalid_json_line"
    await fleet.run_for(timedelta(hours=1), step=timedelta(minutes=2))
    assert await fleet.states() == {JobState.COMPLETED: 12}
    assert fleet.provider.requests["call"] == 1
    assert fleet.doubles() == (0, 0)


async def test_the_only_line_of_a_refused_batch_need_not_be_named() -> None:
    fleet = Fleet()
    fleet.provider.fail_next.append((INVALID_INPUT, None))
    (job_id,) = await fleet.submit(1)

    await fleet.poll()

    assert (await fleet.job(job_id)).lane is Lane.INTERACTIVE


async def test_a_line_is_blamed_on_nobody_where_jobs_before_it_ended_since() -> None:
    fleet = Fleet()
    fleet.provider.fail_next += [("invalid_json_line", 4), ("invalid_json_line", 3)]
    job_ids = await fleet.submit(12)
    await fleet.cancel(job_ids[0])

    await fleet.poll()
    assert {(await fleet.job(job_id)).lane for job_id in job_ids[1:]} == {Lane.BATCH}

    await fleet.run("live", "flush", "submit")
    await fleet.poll()
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

    await fleet.poll()

    lanes = [(await fleet.job(job_id)).lane for job_id in job_ids]
    assert lanes == [Lane.BATCH] * 4 + [Lane.INTERACTIVE] + [Lane.BATCH] * 7


async def test_the_bad_line_is_found_in_a_batch_of_many_chunks() -> None:
    fleet = Fleet()
    fleet.provider._max_requests = 5_000
    fleet.provider.fail_next.append(("invalid_json_line", 1_203))
    job_ids = await fleet.submit(1_300)

    await fleet.poll()

    assert (await fleet.job(job_ids[1_202])).lane is Lane.INTERACTIVE
    lanes = [job.lane for job in await fleet.jobs()]
    assert lanes.count(Lane.INTERACTIVE) == 1


async def test_a_line_number_beyond_the_end_isolates_nobody_and_excuses_nobody() -> None:
    fleet = Fleet()
    fleet.provider.fail_next.append(("invalid_json_line", 99))
    await fleet.submit(12)

    await fleet.poll()

    assert {job.lane for job in await fleet.jobs()} == {Lane.BATCH}
    assert {job.failures for job in await fleet.jobs()} == {1}


@pytest.mark.parametrize("line", [1, 10_000])
async def test_where_every_line_is_bad_batches_are_not_tried_without_end(line: int) -> None:
    fleet = Fleet()
    await fleet.accept_many(160)
    fleet.provider.fail_next += [("invalid_json_line", line)] * 1_000

    await fleet.run_for(timedelta(hours=4), step=timedelta(minutes=1))

    assert await fleet.states() == {JobState.COMPLETED: 160}
    # In turn, then in sixteen parts, then in parts of ten.
    assert fleet.provider.requests["create"] <= ISOLATED_MOST + 1 + 16 + 16


async def test_creates_that_are_refused_for_line_after_line_keep_no_job_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = Fleet()

    async def refused(*_: object) -> ProviderBatch:
        raise ProviderRejectedError("no", code=INVALID_INPUT, status_code=400, line=1)

    monkeypatch.setattr(fleet.provider, "create", refused)
    await fleet.accept_many(640)

    await fleet.run_for(timedelta(hours=4), step=timedelta(minutes=1))

    assert await fleet.states() == {JobState.COMPLETED: 640}
