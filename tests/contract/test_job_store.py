"""What every `JobStore` must do with jobs that come, change and go on.

Lists and ends are in `test_job_records.py`.
"""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from proxy.core.errors import JobNotFoundError
from proxy.core.ids import InstanceId
from proxy.core.job import (
    AnswerMode,
    Assigned,
    CancelRequested,
    DeadlinePassed,
    Escalated,
    Failed,
    Job,
    JobState,
    Outcome,
    Released,
    Rerouted,
    Succeeded,
    advance,
)
from proxy.core.lanes import Lane, LaneChoice
from proxy.ports.jobs import JobFilter, JobWrite, Pending
from tests.contract.steps import (
    ANSWER,
    HOUR,
    OK,
    OTHER,
    PLENTY,
    accepted,
    claim,
    finished,
    listed,
    queued_counts,
    write,
)
from tests.helpers.factories import BODY, IDS, OWNER, T0, make_batch, make_job, make_key, new_job

# Accepting


async def test_a_job_comes_back_as_it_was_accepted(stores):
    job = make_job(
        answer=AnswerMode.WAIT,
        tags={"team": "etl", "ünï": "\udcff"},
        webhook="done",
        affinity="prefix-1",
        headers={"openai-project": "p"},
        key=make_key(headers=(("anthropic-version", "2023-06-01"),), model="gpt\ud800"),
        deadline=T0 + timedelta(microseconds=1),
    )

    acceptance = await stores.jobs.accept(new_job(job))

    assert acceptance.created
    assert acceptance.job == job
    assert await stores.jobs.get(job.id) == job


async def test_a_body_comes_back_byte_for_byte(stores):
    bodies = [b"", b"\x00\xff\r\n", b"x" * 1_000_000, BODY]
    jobs = [await accepted(stores, body=body) for body in bodies]

    assert [await stores.jobs.body(job.id) for job in jobs] == bodies


async def test_an_accepted_job_is_queued_under_its_key(stores):
    job = await accepted(stores)

    assert await queued_counts(stores) == {job.key: 1}
    assert await stores.queue.take(job.key, ready_at=T0, limit=10) == [job]


async def test_an_unknown_job_is_not_found(stores):
    nowhere = IDS.job()

    with pytest.raises(JobNotFoundError):
        await stores.jobs.get(nowhere)
    with pytest.raises(JobNotFoundError):
        await stores.jobs.body(nowhere)
    assert await stores.jobs.result(nowhere) is None


async def test_a_known_idempotency_key_returns_its_job_and_writes_nothing(stores):
    first = await accepted(stores, idempotency_key="k")
    repeat = new_job(idempotency_key="k", tags={"team": "etl"})

    acceptance = await stores.jobs.accept(repeat)

    assert acceptance.job == first
    assert not acceptance.created
    assert await queued_counts(stores) == {first.key: 1}
    assert await listed(stores) == [first.id]
    assert await stores.jobs.pending() == {OWNER: Pending(1, len(BODY))}
    with pytest.raises(JobNotFoundError):
        await stores.jobs.body(repeat.job.id)


async def test_a_known_idempotency_key_returns_the_job_as_it_is_now(stores):
    first = await accepted(stores, idempotency_key="k")
    batch_id = await claim(stores)

    known = await stores.jobs.accept(new_job(idempotency_key="k"))

    assert known.job == advance(first, Assigned(batch_id))


async def test_of_accepts_with_one_idempotency_key_at_once_one_creates(stores):
    news = [new_job(idempotency_key="k") for _ in range(20)]

    acceptances = await asyncio.gather(*map(stores.jobs.accept, news))

    assert sum(acceptance.created for acceptance in acceptances) == 1
    assert len({acceptance.job.id for acceptance in acceptances}) == 1


async def test_an_idempotency_key_belongs_to_its_owner(stores):
    mine = await accepted(stores, idempotency_key="k")

    theirs = await stores.jobs.accept(new_job(idempotency_key="k", owner=OTHER))

    assert theirs.created
    assert theirs.job.id != mine.id


async def test_the_idempotency_key_of_an_erased_job_is_free_again(stores):
    job = await finished(stores, await accepted(stores, idempotency_key="k"))
    await stores.jobs.erase(job.id)

    assert (await stores.jobs.accept(new_job(idempotency_key="k"))).created


async def test_a_key_leads_to_its_owners_job_as_it_is_now_and_to_no_other(stores):
    job = await accepted(stores, idempotency_key="k")
    batch_id = await claim(stores)

    assert await stores.jobs.find_keyed(OWNER, "k") == advance(job, Assigned(batch_id))
    assert await stores.jobs.find_keyed(OTHER, "k") is None
    assert await stores.jobs.find_keyed(OWNER, "another") is None


async def test_the_key_of_an_erased_job_leads_nowhere(stores):
    job = await finished(stores, await accepted(stores, idempotency_key="k"))
    await stores.jobs.erase(job.id)

    assert await stores.jobs.find_keyed(OWNER, "k") is None


# Reading


async def test_many_jobs_come_in_the_order_asked_for_without_those_that_are_gone(stores):
    one, two = await accepted(stores), await accepted(stores)

    assert await stores.jobs.get_many([two.id, IDS.job(), one.id]) == [two, one]
    assert await stores.jobs.get_many([]) == []


async def test_a_claimed_job_is_reported_as_batched(stores):
    job = await accepted(stores)

    batch_id = await claim(stores)

    batched = advance(job, Assigned(batch_id))
    assert (batched.attempt, batched.version) == (1, 1)
    assert await stores.jobs.get(job.id) == batched
    assert await stores.jobs.get_many([job.id]) == [batched]


async def test_there_is_no_result_before_the_end(stores):
    job = await accepted(stores)

    assert await stores.jobs.result(job.id) is None


# Writing


async def test_of_two_writers_the_second_is_refused(stores):
    job = await accepted(stores)
    cancelled = advance(job, CancelRequested(T0))
    escalated = advance(job, Escalated(InstanceId("i")))

    assert await stores.jobs.replace_many([JobWrite(cancelled)]) == frozenset()
    assert await stores.jobs.replace_many([JobWrite(escalated)]) == {job.id}

    assert await stores.jobs.get(job.id) == cancelled


async def test_a_write_that_skips_a_version_is_refused(stores):
    job = await accepted(stores)

    assert not await write(stores, replace(job, version=2))
    assert not await write(stores, job)

    assert await stores.jobs.get(job.id) == job


async def test_more_jobs_than_fit_in_one_statement_are_written_at_one_moment(stores):
    jobs = [await accepted(stores) for _ in range(230)]
    afters = [advance(job, Succeeded(0, T0, OK)) for job in jobs]

    refused = await stores.jobs.replace_many([JobWrite(after, ANSWER) for after in afters])

    assert refused == frozenset()
    assert await stores.jobs.get_many([job.id for job in jobs]) == afters
    assert await stores.jobs.result(jobs[-1].id) == ANSWER
    assert await stores.jobs.replace_many([]) == frozenset()


async def test_of_many_writers_at_once_one_wins(stores):
    job = await accepted(stores)
    afters = [advance(job, Escalated(InstanceId(f"i{n}"))) for n in range(20)]

    refused = await asyncio.gather(
        *(stores.jobs.replace_many([JobWrite(after)]) for after in afters)
    )

    assert sorted(map(len, refused)) == [0] + [1] * 19
    winner = refused.index(frozenset())
    assert (await stores.jobs.get(job.id)).holder == f"i{winner}"


async def test_a_refusal_does_not_stop_the_others(stores):
    lost, won = await accepted(stores), await accepted(stores)
    assert await write(stores, advance(lost, CancelRequested(T0)))

    refused = await stores.jobs.replace_many(
        [JobWrite(advance(job, DeadlinePassed(T0))) for job in (lost, won)]
    )

    assert refused == {lost.id}
    assert (await stores.jobs.get(won.id)).state is JobState.EXPIRED


async def test_a_write_to_a_job_that_is_gone_is_refused(stores):
    job = await finished(stores, await accepted(stores))
    await stores.jobs.erase(job.id)
    unknown = make_job(version=1)

    refused = await stores.jobs.replace_many(
        [JobWrite(advance(make_job(id=job.id), CancelRequested(T0))), JobWrite(unknown)]
    )

    assert refused == {job.id, unknown.id}


async def test_a_job_ends_together_with_its_result(stores):
    job = await finished(stores, await accepted(stores))

    assert (await stores.jobs.get(job.id)) == job
    assert (await stores.jobs.get(job.id)).outcome == OK
    assert await stores.jobs.result(job.id) == ANSWER


async def test_a_job_that_was_called_directly_ends_with_all_that_it_was(stores):
    job = await accepted(stores, tags={"team": "search"})
    called = advance(job, Escalated(InstanceId("i")))
    assert await write(stores, called)
    ended = advance(called, Succeeded(1, T0, OK))

    assert await write(stores, ended, ANSWER)

    assert ended.holder is None
    assert await stores.jobs.get(job.id) == ended
    assert await stores.jobs.list_jobs(job.owner, JobFilter(), after=None, limit=9) == [ended]


async def test_the_result_of_a_refused_write_is_not_kept(stores):
    job = await accepted(stores)
    late = advance(job, Succeeded(0, T0, OK))
    assert await write(stores, advance(job, Escalated(InstanceId("i"))))

    assert not await write(stores, late, ANSWER)

    assert await stores.jobs.result(job.id) is None


async def test_a_released_job_is_queued_from_its_next_attempt_on(stores):
    job = await accepted(stores)
    called = advance(job, Escalated(InstanceId("i")))
    assert await write(stores, called)

    released = advance(called, Released(1, "HTTP 503", not_before=T0 + HOUR))
    assert await write(stores, released)

    (head,) = await stores.batches.heads()
    assert (head.count, head.oldest_at, head.newest_at) == (1, T0 + HOUR, T0 + HOUR)
    assert await stores.queue.take(job.key, ready_at=T0, limit=9) == []
    assert await stores.queue.take(job.key, ready_at=T0 + HOUR, limit=9) == [released]


async def test_a_job_that_is_queued_again_changes_places_and_is_counted_once(stores):
    job = await accepted(stores)
    again = advance(job, Rerouted(LaneChoice(Lane.BATCH, "still")))

    assert await write(stores, again)

    assert await queued_counts(stores) == {job.key: 1}


async def test_a_rerouted_job_waits_under_its_new_key(stores):
    job = await accepted(stores)

    rerouted = advance(job, Rerouted(LaneChoice(Lane.INTERACTIVE, "near")))
    assert await write(stores, rerouted)

    assert await queued_counts(stores) == {make_key(lane=Lane.INTERACTIVE): 1}
    assert await stores.queue.take(rerouted.key, ready_at=T0, limit=9) == [rerouted]


@pytest.mark.parametrize(
    "event",
    [
        Escalated(InstanceId("i")),
        Succeeded(0, T0, OK),
        Failed(0, T0, Outcome(400)),
        DeadlinePassed(T0),
        CancelRequested(T0),
    ],
    ids=lambda event: type(event).__name__,
)
async def test_a_job_in_any_other_state_leaves_the_queue(stores, event):
    job, other = await accepted(stores), await accepted(stores)

    assert await write(stores, advance(job, event))

    assert await queued_counts(stores) == {job.key: 1}
    assert await stores.queue.take(job.key, ready_at=T0, limit=9) == [other]
    assert await stores.queue.due(job.key, before=T0 + 99 * HOUR, limit=9) == [other]


async def test_a_cancelled_jobs_payload_is_erased(stores):
    cancelled, ended = await accepted(stores), await accepted(stores)
    assert await write(stores, advance(cancelled, CancelRequested(T0)))
    await finished(stores, ended)

    with pytest.raises(JobNotFoundError):
        await stores.jobs.body(cancelled.id)
    assert await stores.jobs.body(ended.id) == BODY


async def test_who_saw_a_job_queued_cannot_cancel_it_after_a_claim(stores):
    job = await accepted(stores)
    batch_id = await claim(stores)

    assert not await write(stores, advance(job, CancelRequested(T0)))

    assert (await stores.jobs.get(job.id)).batch_id == batch_id
    assert await write(stores, advance(await stores.jobs.get(job.id), CancelRequested(T0)))


async def test_a_job_that_was_cancelled_first_is_not_claimed(stores):
    job = await accepted(stores)
    assert await write(stores, advance(job, CancelRequested(T0)))

    batch_id = await claim(stores)

    assert (await stores.jobs.get(job.id)).state is JobState.CANCELLED
    assert not await stores.batches.issued(batch_id, [(job.id, 1)])


async def test_a_cancel_and_a_claim_at_once_never_both_get_the_job(stores):
    for _ in range(20):
        job = await accepted(stores)
        batch = make_batch()
        await stores.batches.add(batch)

        cancelled, claimed = await asyncio.gather(
            write(stores, advance(job, CancelRequested(T0))),
            stores.batches.claim(job.key, batch.id, PLENTY, ready_at=T0),
        )

        assert cancelled != bool(claimed.count)


async def test_a_job_released_by_one_batch_is_claimed_by_the_next(stores):
    job = await accepted(stores)
    await claim(stores)
    released = advance(await stores.jobs.get(job.id), Released(1, "the batch expired"))
    assert await write(stores, released)
    assert (await stores.jobs.get(job.id)) == released

    second = await claim(stores)

    assert await stores.jobs.get(job.id) == advance(released, Assigned(second))
    assert (await stores.jobs.get(job.id)).attempt == 2


# Cancellation


async def test_a_cancelled_accept_is_whole_or_not_there(stores):
    news = [new_job(idempotency_key=f"k{n}", tags={"n": str(n)}) for n in range(60)]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(stores.jobs.accept(new)) for new in news]
        for turns, task in enumerate(tasks):
            if turns % 3:
                await asyncio.sleep(0)
            task.cancel()

    # What was begun is done before a write that came later.
    await finished(stores, await accepted(stores, owner=OTHER))
    there = await stores.jobs.get_many([new.job.id for new in news])
    assert await stores.jobs.pending() == (
        {OWNER: Pending(len(there), len(BODY) * len(there))} if there else {}
    )
    assert sum((await queued_counts(stores)).values()) == len(there)
    for job in there:
        assert await stores.jobs.body(job.id) == BODY


async def test_no_reader_gets_what_another_one_asked_for(stores):
    jobs = [await accepted(stores, body=b"%d" % n, tokens=n) for n in range(50)]

    async def read(job: Job) -> None:
        assert await stores.jobs.get(job.id) == job
        assert await stores.jobs.body(job.id) == b"%d" % job.tokens

    async with asyncio.TaskGroup() as group:
        for job in jobs:
            doomed = [group.create_task(read(job)) for _ in range(3)]
            group.create_task(read(job))
            await asyncio.sleep(0)
            for task in doomed:
                task.cancel()
