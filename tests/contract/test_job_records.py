"""What every `JobStore` must do with jobs that are listed, counted, erased and pruned."""

from dataclasses import replace

import pytest

from proxy.core.errors import JobNotFoundError
from proxy.core.ids import InstanceId, JobId, OwnerId
from proxy.core.job import (
    CancelRequested,
    Escalated,
    Failed,
    JobState,
    Released,
    advance,
)
from proxy.ports.jobs import JobFilter, JobWrite, Pending
from tests.contract.steps import (
    ANSWER,
    HOUR,
    OK,
    OTHER,
    accepted,
    claim,
    finished,
    listed,
    write,
)
from tests.helpers.factories import BODY, IDS, OWNER, T0

# Lists


async def test_an_owners_jobs_are_listed_newest_first(stores):
    old = await accepted(stores, accepted_at=T0)
    await accepted(stores, accepted_at=T0, owner=OTHER)
    new = await accepted(stores, accepted_at=T0 + 2 * HOUR)
    middle = await accepted(stores, accepted_at=T0 + HOUR)

    assert await listed(stores) == [new.id, middle.id, old.id]
    assert await listed(stores, limit=2) == [new.id, middle.id]
    assert await listed(stores, after=new.id, limit=1) == [middle.id]
    assert await listed(stores, after=old.id) == []
    assert await listed(stores, owner=OwnerId("nobody")) == []


async def test_pages_of_a_list_neither_overlap_nor_leave_out(stores):
    # Many at the same moment: the page must end between two of them.
    everything = {(await accepted(stores)).id for _ in range(23)}

    pages, last = [], None
    while page := await listed(stores, after=last, limit=5):
        pages.append(page)
        last = page[-1]

    assert [len(page) for page in pages] == [5, 5, 5, 5, 3]
    assert {job_id for page in pages for job_id in page} == everything


async def test_a_list_after_a_job_that_is_not_the_owners_is_not_found(stores):
    theirs = await accepted(stores, owner=OTHER)

    for after in (theirs.id, IDS.job()):
        with pytest.raises(JobNotFoundError):
            await listed(stores, after=after)


async def test_a_list_can_be_narrowed_to_states_as_they_are_now(stores):
    batched, answered, failed = [await accepted(stores) for _ in range(3)]
    await claim(stores)
    await finished(stores, await stores.jobs.get(answered.id))
    claimed = await stores.jobs.get(failed.id)
    assert await write(stores, advance(claimed, Failed(1, T0, OK)), ANSWER)
    queued, done = await accepted(stores), await accepted(stores)
    await finished(stores, done)

    async def only(*states: JobState) -> list[JobId]:
        return await listed(stores, JobFilter(states=frozenset(states)))

    assert await only(JobState.QUEUED) == [queued.id]
    assert await only(JobState.BATCHED) == [batched.id]
    assert set(await only(JobState.COMPLETED)) == {done.id, answered.id}
    assert set(await only(JobState.BATCHED, JobState.QUEUED)) == {queued.id, batched.id}
    assert await only(JobState.FAILED) == [failed.id]
    assert await only(JobState.EXPIRED) == []
    assert await only() == []


async def test_a_list_can_be_narrowed_to_a_tag(stores):
    both = await accepted(stores, tags={"team": "etl", "run": "1"})
    team = await accepted(stores, tags={"team": "etl"}, accepted_at=T0 + HOUR)
    await accepted(stores, tags={"team": "web"})
    await accepted(stores, tags={"etl": "team"})
    await accepted(stores, tags={"team": "etl"}, owner=OTHER)
    await finished(stores, both)

    assert await listed(stores, JobFilter(tag=("team", "etl"))) == [team.id, both.id]
    assert await listed(stores, JobFilter(tag=("team", "etl")), after=team.id) == [both.id]
    assert await listed(stores, JobFilter(tag=("run", "1"))) == [both.id]
    queued = JobFilter(tag=("team", "etl"), states=frozenset({JobState.QUEUED}))
    assert await listed(stores, queued) == [team.id]


async def test_a_rare_state_is_found_behind_many_others(stores):
    rare = await accepted(stores, tags={"a": "b"})
    await claim(stores)
    for _ in range(1_100):
        await accepted(stores, tags={"a": "b"}, accepted_at=T0 + HOUR)

    batched = frozenset({JobState.BATCHED})
    assert await listed(stores, JobFilter(states=batched)) == [rare.id]
    assert await listed(stores, JobFilter(states=batched, tag=("a", "b"))) == [rare.id]


# Erasing


async def test_an_erased_job_is_not_found_anywhere(stores):
    job = await finished(stores, await accepted(stores, tags={"team": "etl"}))

    await stores.jobs.erase(job.id)

    with pytest.raises(JobNotFoundError):
        await stores.jobs.get(job.id)
    with pytest.raises(JobNotFoundError):
        await stores.jobs.body(job.id)
    assert await stores.jobs.get_many([job.id]) == []
    assert await stores.jobs.result(job.id) is None
    assert await listed(stores) == []
    assert await listed(stores, JobFilter(tag=("team", "etl"))) == []


async def test_an_erased_job_leaves_its_batch_what_settlement_needs(stores):
    job, other = await accepted(stores), await accepted(stores)
    batch_id = await claim(stores)
    batched = await stores.jobs.get(job.id)
    assert await write(stores, advance(batched, CancelRequested(T0)))

    await stores.jobs.erase(job.id)

    names = [(job.id, 1), (other.id, 1)]
    assert await stores.batches.issued(batch_id, names) == frozenset(names)
    assert [item.job_id async for page in stores.batches.items(batch_id) for item in page] == [
        other.id
    ]
    with pytest.raises(JobNotFoundError):
        await stores.jobs.get(job.id)

    await stores.batches.drop_items(batch_id)
    assert await stores.batches.issued(batch_id, names) == frozenset()


async def test_an_erased_job_of_two_batches_is_kept_until_both_are_settled(stores):
    job = await accepted(stores)
    first = await claim(stores)
    released = advance(await stores.jobs.get(job.id), Released(1, "lost"))
    assert await write(stores, released)
    second = await claim(stores)
    await finished(stores, await stores.jobs.get(job.id))
    await stores.jobs.erase(job.id)

    await stores.batches.drop_items(first)

    assert await stores.batches.issued(first, [(job.id, 1)]) == frozenset()
    assert await stores.batches.issued(second, [(job.id, 2)]) == {(job.id, 2)}


async def test_erasing_again_or_what_never_was_does_nothing(stores):
    job = await finished(stores, await accepted(stores))
    await stores.jobs.erase(job.id)

    await stores.jobs.erase(job.id)
    await stores.jobs.erase(IDS.job())

    assert await stores.jobs.pending() == {}


async def test_erasing_a_job_that_still_runs_is_a_bug(stores):
    queued = await accepted(stores)

    with pytest.raises(AssertionError):
        await stores.jobs.erase(queued.id)

    assert await stores.jobs.get(queued.id) == queued


# Counting


async def test_pending_is_what_is_not_terminal(stores):
    await accepted(stores, body=b"12345")
    await claim(stores)
    called = await accepted(stores, body=b"123")
    assert await write(stores, advance(called, Escalated(InstanceId("i"))))
    await accepted(stores, body=b"1", owner=OTHER)
    await finished(stores, await accepted(stores))

    assert await stores.jobs.pending() == {OWNER: Pending(2, 8), OTHER: Pending(1, 1)}
    assert await stores.jobs.pending([OTHER, OwnerId("nobody")]) == {OTHER: Pending(1, 1)}
    assert await stores.jobs.pending([]) == {}


async def test_a_job_stays_pending_through_release_and_retry_and_ends_once(stores):
    job = await accepted(stores)
    await claim(stores)
    released = advance(await stores.jobs.get(job.id), Released(1, "expired"))
    assert await write(stores, released)
    assert await stores.jobs.pending() == {OWNER: Pending(1, len(BODY))}

    await finished(stores, released)

    assert await stores.jobs.pending() == {}


async def test_a_change_of_an_ended_job_does_not_count_its_end_again(stores):
    other = await accepted(stores)
    ended = await finished(stores, await accepted(stores))

    # Written or refused, as the store likes: nothing that is of use does it.
    await write(stores, replace(ended, last_reason="late news", version=ended.version + 1))

    assert await stores.jobs.pending() == {OWNER: Pending(1, other.body_bytes)}


# Pruning


async def test_pruning_erases_what_ended_before_and_no_more_than_asked(stores):
    ended = [
        await finished(stores, await accepted(stores), at=T0 + hours * HOUR) for hours in range(4)
    ]
    running = await accepted(stores)

    assert await stores.jobs.prune(finalized_before=T0 + 3 * HOUR, limit=2) == 2
    assert set(await listed(stores)) == {ended[2].id, ended[3].id, running.id}
    assert await stores.jobs.prune(finalized_before=T0 + 3 * HOUR, limit=2) == 1
    assert await stores.jobs.prune(finalized_before=T0 + 3 * HOUR, limit=2) == 0

    assert set(await listed(stores)) == {ended[3].id, running.id}
    assert await stores.jobs.result(ended[0].id) is None


async def test_pruning_many_counts_them_all(stores):
    jobs = [await accepted(stores) for _ in range(130)]
    writes = [JobWrite(advance(job, CancelRequested(T0))) for job in jobs]
    assert await stores.jobs.replace_many(writes) == frozenset()

    assert await stores.jobs.prune(finalized_before=T0 + HOUR, limit=120) == 120
    assert await stores.jobs.prune(finalized_before=T0 + HOUR, limit=120) == 10


async def test_a_pruned_job_leaves_its_live_batch_what_settlement_needs(stores):
    job = await accepted(stores)
    batch_id = await claim(stores)
    await finished(stores, await stores.jobs.get(job.id))

    assert await stores.jobs.prune(finalized_before=T0 + HOUR, limit=9) == 1

    assert await stores.batches.issued(batch_id, [(job.id, 1)]) == {(job.id, 1)}
    assert await stores.jobs.prune(finalized_before=T0 + HOUR, limit=9) == 0
