"""Reading result files: each line to its own job, and nobody else's line to anyone."""

import json
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from proxy.core.errors import StoreUnavailableError
from proxy.core.ids import CredentialId, JobId, custom_id
from proxy.core.job import JobState
from proxy.core.lanes import Lane
from proxy.core.ledger import Sums
from proxy.core.outcomes import MAX_BATCH_FAILURES
from proxy.ports.provider import LineKind, ResultLine
from proxy.services.batches.ingest import SIDE_BY_SIDE, Ingested
from tests.helpers.factories import IDS
from tests.helpers.fake_provider import right_answer
from tests.helpers.fleet import Fleet

CREDENTIAL = CredentialId("credential-1")


def line(job_id: JobId, attempt: int = 1, *, status: int = 200, body: bytes = b"{}") -> ResultLine:
    return ResultLine(
        kind=LineKind.ANSWERED,
        custom_id=custom_id(job_id, attempt),
        status_code=status,
        body=body,
    )


def overlong(job_id: JobId) -> ResultLine:
    return ResultLine(kind=LineKind.OVERLONG, custom_id=custom_id(job_id, 1))


def error(code: str) -> bytes:
    return json.dumps({"error": {"code": code, "message": "no"}}).encode()


async def ingest(fleet: Fleet, *lines: ResultLine, is_twin: bool = False) -> Ingested:
    """Read these lines as the file of the newest batch."""
    here = fleet.instances[0]

    async def chunks() -> AsyncIterator[Sequence[ResultLine]]:
        yield lines

    sums, batch = Ingested(), await fleet.batch()
    await here.ingestor.ingest(batch, chunks(), sums, source="file-1", is_twin=is_twin)
    return sums


async def test_results_are_joined_by_name_and_never_by_order() -> None:
    fleet = Fleet()
    job_ids = await fleet.submit(5)

    sums = await ingest(
        fleet, *[line(job_id, body=job_id.encode()) for job_id in reversed(job_ids)]
    )

    assert (sums.ended, sums.released, sums.ignored) == (5, 0, 0)
    for job_id in job_ids:
        result = await fleet.stores.jobs.result(job_id)
        assert result is not None
        assert result.body == job_id.encode()


async def test_a_result_keeps_the_exact_bytes_and_the_providers_request_id() -> None:
    fleet = Fleet()
    (job_id,) = await fleet.submit(1)
    body = b'{"a" :1.0,\t"b":"\xc3\xa9","usage":{"total_tokens":7}}'

    await ingest(fleet, line(job_id, body=body)._replace(request_id="req-1"))

    result = await fleet.stores.jobs.result(job_id)
    job = await fleet.job(job_id)
    assert result is not None
    assert (result.body, result.request_id) == (body, "req-1")
    assert job.outcome is not None
    assert job.outcome.usage == {"total_tokens": 7}
    assert job.answered_by == 1


async def test_an_answer_cut_off_amid_a_surrogate_pair_says_what_it_cost() -> None:
    fleet = Fleet()
    (job_id,) = await fleet.submit(1)
    body = b'{"choices":[{"text":"smile \\ud83d"}],"usage":{"total_tokens":7}}'

    await ingest(fleet, line(job_id, body=body))

    result = await fleet.stores.jobs.result(job_id)
    job = await fleet.job(job_id)
    assert result is not None
    assert result.body == body
    assert job.outcome is not None
    assert job.outcome.usage == {"total_tokens": 7}


async def test_a_permanent_error_is_final_with_its_status_and_body() -> None:
    fleet = Fleet()
    (job_id,) = await fleet.submit(1)

    await ingest(fleet, line(job_id, status=422, body=error("bad_input")))

    job = await fleet.job(job_id)
    result = await fleet.stores.jobs.result(job_id)
    assert job.state is JobState.FAILED
    assert job.outcome is not None
    assert (job.outcome.status_code, job.outcome.error_code) == (422, "bad_input")
    assert result is not None
    assert (result.status_code, result.body) == (422, error("bad_input"))


async def test_a_transient_error_waits_for_the_next_batch_without_a_result() -> None:
    fleet = Fleet()
    (job_id,) = await fleet.submit(1)

    sums = await ingest(fleet, line(job_id, status=500, body=error("server_error")))

    job = await fleet.job(job_id)
    assert (sums.ended, sums.released) == (0, 1)
    assert (job.state, job.lane, job.failures) == (JobState.QUEUED, Lane.BATCH, 1)
    assert job.not_before is not None
    assert await fleet.stores.jobs.result(job_id) is None


async def test_a_line_that_fails_in_three_batches_is_called_directly() -> None:
    fleet = Fleet()
    fleet.provider.answer_line = lambda *_: (500, error("server_error"))
    (job_id,) = await fleet.submit(1)

    await fleet.run_for(timedelta(hours=3), step=timedelta(minutes=1))

    job = await fleet.job(job_id)
    assert fleet.provider.requests["create"] == MAX_BATCH_FAILURES
    assert fleet.provider.requests["call"] == 1
    assert (job.state, job.attempt) == (JobState.COMPLETED, MAX_BATCH_FAILURES + 1)
    assert job.lane_reason == "failed 3 times before"
    assert fleet.doubles() == (0, 0)


@pytest.mark.parametrize("code", ["batch_client_error", "invalid_request_error"])
async def test_a_line_refused_without_the_providers_words_is_called_directly_at_once(code) -> None:
    fleet = Fleet()
    words = error("context_length_exceeded")
    fleet.provider.answer_call = lambda _: (400, words)
    job_id, *_ = job_ids = await fleet.submit(5)
    refused = ResultLine(
        kind=LineKind.NOT_EXECUTED, custom_id=custom_id(job_id, 1), error_code=code
    )

    await ingest(fleet, refused, *[line(other) for other in job_ids[1:]])
    await fleet.run_for(timedelta(minutes=5), step=timedelta(seconds=30))

    result = await fleet.stores.jobs.result(job_id)
    assert result is not None
    assert (result.status_code, result.body) == (400, words)
    assert fleet.provider.requests["create"] == 1
    assert fleet.provider.requests["call"] == 1


@pytest.mark.parametrize(
    ("code", "refused"),
    [
        (
            "invalid_api_key",
            lambda job_id: line(job_id, status=401, body=error("invalid_api_key")),
        ),
        (
            "insufficient_quota",
            lambda job_id: line(job_id, status=429, body=error("insufficient_quota")),
        ),
        (
            "insufficient_quota",
            lambda job_id: ResultLine(
                kind=LineKind.NOT_EXECUTED,
                custom_id=custom_id(job_id, 1),
                error_code="insufficient_quota",
            ),
        ),
    ],
)
async def test_a_line_refused_for_its_account_pauses_the_lane_and_burns_no_job(
    code, refused
) -> None:
    fleet = Fleet()
    job_ids = await fleet.submit(5)

    await ingest(fleet, *[refused(job_id) for job_id in job_ids])

    credential = await fleet.stores.credentials.get(CREDENTIAL)
    assert credential is not None
    assert credential.paused_at is not None
    assert {(job.state, job.failures) for job in await fleet.jobs()} == {(JobState.QUEUED, 0)}
    assert fleet.tally.labels["credential_paused"] == [{"code": code}]


async def test_a_credential_is_paused_once_per_file_and_with_the_providers_words() -> None:
    fleet = Fleet()
    job_ids = await fleet.submit(5)
    credentials: Any = fleet.instances[0].ground.credentials
    pauses = []
    pause = credentials.pause

    async def counted(*args: object, **kwargs: object) -> None:
        pauses.append(args)
        await pause(*args, **kwargs)

    credentials.pause = counted
    body = error("invalid_api_key")

    await ingest(fleet, *[line(job_id, status=401, body=body) for job_id in job_ids])

    paused = await fleet.stores.credentials.get(CREDENTIAL)
    assert paused is not None
    assert len(pauses) == 1
    assert (paused.pause_status, paused.pause_body) == (401, body)


async def test_an_old_refusal_that_is_read_again_pauses_nobody_anew() -> None:
    fleet = Fleet()
    (job_id,) = await fleet.submit(1)
    refusal = line(job_id, status=401, body=error("invalid_api_key"))
    await ingest(fleet, refusal)
    await fleet.stores.credentials.accepted(CREDENTIAL, at=fleet.clock.now())

    sums = await ingest(fleet, refusal)

    credential = await fleet.stores.credentials.get(CREDENTIAL)
    assert credential is not None
    assert credential.paused_at is None
    assert sums.ignored == 1


async def test_lines_of_others_are_ignored_and_counted() -> None:
    fleet = Fleet()
    batched, *_ = await fleet.submit(12)
    (job_id,) = await fleet.submit(1)
    elsewhere = await fleet.accept()
    strange = [
        line(IDS.job()),
        line(elsewhere),
        line(batched),
        line(job_id, 2),
        line(job_id)._replace(custom_id="request-1"),
        line(job_id)._replace(custom_id=None),
        line(job_id)._replace(custom_id=custom_id(job_id, 1).replace("-", "_")),
    ]

    sums = await ingest(fleet, *strange)

    assert (sums.ended, sums.ignored) == (0, 7)
    assert fleet.tally.counts["line_ignored"] == 7
    assert (await fleet.job(job_id)).state is JobState.BATCHED
    assert (await fleet.job(batched)).state is JobState.BATCHED
    assert (await fleet.job(elsewhere)).state is JobState.QUEUED


async def test_an_unreadable_line_is_nobodys_even_if_its_name_can_be_read() -> None:
    fleet = Fleet()
    (job_id,) = await fleet.submit(1)

    sums = await ingest(fleet, ResultLine(kind=LineKind.UNREADABLE, custom_id=custom_id(job_id, 1)))

    assert sums.ignored == 1
    assert fleet.tally.counts["line_ignored"] == 1
    assert (await fleet.job(job_id)).state is JobState.BATCHED


async def test_an_answer_too_long_to_be_read_ends_its_job_and_may_have_been_paid_for() -> None:
    fleet = Fleet()
    (job_id,) = await fleet.submit(1)

    for _ in "read", "read again":
        await ingest(fleet, overlong(job_id))

    job = await fleet.job(job_id)
    assert job.state is JobState.FAILED
    assert job.outcome is not None
    assert job.outcome.error_code == "answer_too_long"
    assert await fleet.stores.jobs.result(job_id) is None
    assert await fleet.booked() == Sums(jobs=1, possible_doubles=1, possible_unpriced=1)
    assert fleet.tally.counts["possible_double"] == 1


@pytest.mark.parametrize("is_twin", [False, True])
async def test_an_answer_too_long_to_be_read_that_changes_nothing_was_bought(is_twin) -> None:
    fleet = Fleet()
    (job_id,) = await fleet.submit(1)
    await (ingest(fleet, overlong(job_id)) if is_twin else fleet.cancel(job_id))

    await ingest(fleet, overlong(job_id), is_twin=is_twin)

    booked = await fleet.booked()
    assert (booked.useless, booked.unpriced, booked.possible_doubles) == (1, 1, int(is_twin))


async def test_of_two_lines_for_one_job_the_first_counts() -> None:
    fleet = Fleet()
    (job_id,) = await fleet.submit(1)

    sums = await ingest(fleet, line(job_id, body=b'"one"'), line(job_id, body=b'"two"'))

    result = await fleet.stores.jobs.result(job_id)
    assert result is not None
    assert result.body == b'"one"'
    assert (sums.ended, sums.ignored) == (1, 1)


async def test_an_answer_behind_a_refusal_of_the_same_job_is_not_lost() -> None:
    fleet = Fleet()
    (job_id, *_) = await fleet.submit(5)

    sums = await ingest(
        fleet,
        line(job_id, status=503, body=error("overloaded")),
        line(job_id, body=b'{"paid": 1}'),
        line(job_id, body=b'{"paid": 2}'),
    )

    result = await fleet.stores.jobs.result(job_id)
    assert result is not None
    assert (result.status_code, result.body) == (200, b'{"paid": 1}')
    assert (sums.released, sums.ended, sums.ignored) == (1, 1, 1)


async def test_reading_a_file_again_changes_nothing_and_counts_nothing() -> None:
    fleet = Fleet()
    job_ids = await fleet.submit(5)
    lines = [
        *[line(job_id) for job_id in job_ids[:3]],
        line(job_ids[3], status=500),
        line(job_ids[4], status=400),
    ]
    await ingest(fleet, *lines)
    before = await fleet.jobs()
    counts = dict(fleet.tally.counts)

    sums = await ingest(fleet, *lines)

    assert await fleet.jobs() == before
    assert dict(fleet.tally.counts) == counts
    assert (sums.ended, sums.released, sums.ignored) == (0, 0, 5)


async def test_a_bad_end_of_an_old_attempt_does_not_disturb_the_new_one() -> None:
    fleet = Fleet()
    (job_id,) = await fleet.submit(1)
    await ingest(fleet, line(job_id, status=500))
    first = await fleet.batch()
    fleet.clock.advance(minutes=5)
    await fleet.run("live", "flush")
    assert (await fleet.batch()).id != first.id
    moved = await fleet.job(job_id)
    assert (moved.state, moved.attempt) == (JobState.BATCHED, 2)

    async def chunks() -> AsyncIterator[Sequence[ResultLine]]:
        yield [line(job_id, status=500), line(job_id, status=400)]

    await fleet.instances[0].ingestor.ingest(first, chunks(), Ingested(), source="file-1")

    assert await fleet.job(job_id) == moved


async def test_an_answer_to_a_cancelled_job_was_bought_for_nothing_and_is_counted() -> None:
    fleet = Fleet()
    (job_id,) = await fleet.submit(1)
    await fleet.cancel(job_id)

    sums = await ingest(fleet, line(job_id))

    assert (await fleet.job(job_id)).state is JobState.CANCELLED
    assert fleet.tally.counts["late_result"] == 1
    assert sums.ignored == 1
    assert await fleet.stores.jobs.result(job_id) is None


async def test_a_useless_answer_that_comes_twice_was_bought_once() -> None:
    fleet = Fleet()
    (job_id,) = await fleet.submit(1)
    await fleet.cancel(job_id)

    await ingest(fleet, line(job_id), line(job_id))

    assert fleet.tally.counts["late_result"] == 1


async def test_an_answer_that_was_booked_is_not_booked_again_when_its_job_is_gone() -> None:
    fleet = Fleet()
    job_ids = await fleet.submit(3)
    lines = [line(job_id, body=right_answer(fleet.bodies[job_id])) for job_id in job_ids]
    await ingest(fleet, *lines)
    before = await fleet.booked()

    for job in await fleet.jobs():
        await fleet.instances[0].ground.books.note_answered(job)
        await fleet.stores.jobs.erase(job.id)
    await ingest(fleet, *lines)

    assert await fleet.booked() == before
    assert (before.answers, before.useless) == (3, 0)
    await ingest(fleet, *lines, is_twin=True)
    assert (await fleet.booked()).useless == 3


async def test_an_error_for_a_cancelled_job_was_not_bought() -> None:
    fleet = Fleet()
    (job_id,) = await fleet.submit(1)
    await fleet.cancel(job_id)

    await ingest(fleet, line(job_id, status=400), line(job_id, status=500))

    assert fleet.tally.counts["late_result"] == 0


async def test_a_twins_answers_are_bought_twice_whoever_answered_first() -> None:
    fleet = Fleet()
    job_ids = await fleet.submit(3)
    await ingest(fleet, *[line(job_id) for job_id in job_ids])

    await ingest(fleet, *[line(job_id) for job_id in job_ids], is_twin=True)

    assert fleet.tally.counts["late_result"] == 3


async def test_a_cancellation_at_the_moment_of_the_write_wins() -> None:
    fleet = Fleet()
    job_ids = await fleet.submit(3)
    jobs: Any = fleet.instances[0].ground.jobs
    write = jobs.replace_many

    async def cancelled_first(writes):
        jobs.replace_many = write
        await fleet.cancel(job_ids[1])
        return await write(writes)

    jobs.replace_many = cancelled_first
    sums = await ingest(fleet, *[line(job_id) for job_id in job_ids])

    assert await fleet.states() == {JobState.COMPLETED: 2, JobState.CANCELLED: 1}
    assert sums.ended == 2
    assert fleet.tally.counts["late_result"] == 1
    assert fleet.tally.counts["job_ended"] == 2


async def test_a_late_answer_wakes_whoever_waits() -> None:
    fleet = Fleet()
    job_ids = await fleet.submit(2)
    woken = fleet.instances[0].watch_wakes()

    await ingest(fleet, line(job_ids[0]), line(job_ids[1], status=400))

    assert sorted(woken) == sorted(job_ids)


async def test_many_lines_are_written_a_few_at_a_time() -> None:
    fleet = Fleet()
    job_ids = await fleet.submit(250)
    jobs: Any = fleet.instances[0].ground.jobs
    sizes: list[int] = []
    under_way: list[int] = [0]
    write = jobs.replace_many

    async def counted(writes):
        sizes.append(len(writes))
        under_way.append(under_way[-1] + 1)
        try:
            return await write(writes)
        finally:
            under_way.append(under_way[-1] - 1)

    jobs.replace_many = counted
    await ingest(fleet, *[line(job_id) for job_id in [*job_ids, *job_ids]])

    assert sum(sizes) >= 250
    assert max(sizes) <= 100
    assert 1 < max(under_way) <= SIDE_BY_SIDE


async def test_the_store_s_failure_is_told_as_it_is_and_ends_the_reading() -> None:
    fleet = Fleet()
    job_ids = await fleet.submit(12)
    jobs: Any = fleet.instances[0].ground.jobs

    async def fail(writes):
        raise StoreUnavailableError("away")

    jobs.replace_many = fail
    with pytest.raises(StoreUnavailableError):
        await ingest(fleet, *[line(job_id) for job_id in job_ids])


async def test_a_result_of_a_batch_that_was_given_up_for_lost_is_still_the_answer() -> None:
    fleet = Fleet()
    (job_id,) = await fleet.submit(1)
    await ingest(fleet, line(job_id, status=500))
    assert (await fleet.job(job_id)).state is JobState.QUEUED

    await ingest(fleet, line(job_id, body=right_answer(fleet.bodies[job_id])), is_twin=True)

    job = await fleet.job(job_id)
    assert (job.state, job.answered_by) == (JobState.COMPLETED, 1)
    assert fleet.tally.counts["late_result"] == 0
