"""Erasing what was kept long enough, in bounded bites."""

from datetime import timedelta

import pytest

from proxy.core.errors import JobNotFoundError
from proxy.core.job import JobState
from proxy.services.prune import MAX_ROUNDS, PER_PASS, Pruner
from tests.helpers.fleet import Fleet

KEPT = timedelta(days=7)


def pruner(fleet: Fleet) -> Pruner:
    return Pruner(
        fleet.instances[0].ground,
        ledger=fleet.stores.ledger,
        keep_results=KEPT,
        keep_ledger=10 * KEPT,
    )


async def test_jobs_and_batches_are_erased_after_their_time() -> None:
    fleet = Fleet()
    (job_id,) = await fleet.submit(1)
    await fleet.answer()
    batch = await fleet.batch()

    fleet.clock.advance(seconds=KEPT.total_seconds())
    assert await pruner(fleet).run_once() == 0
    assert (await fleet.job(job_id)).state is JobState.COMPLETED
    fleet.clock.advance(seconds=1)
    # The job, its batch, and the credential that only they needed.
    assert await pruner(fleet).run_once() == 3

    with pytest.raises(JobNotFoundError):
        await fleet.job(job_id)
    assert await fleet.stores.jobs.result(job_id) is None
    assert await fleet.stores.batches.get(batch.id) is None


async def test_a_clock_that_is_set_wrong_for_a_while_erases_nothing() -> None:
    fleet = Fleet()
    (job_id,) = await fleet.submit(1)
    await fleet.answer()
    passes = pruner(fleet)
    await passes.run_once()

    fleet.clock.set(days=400)
    await passes.run_once()
    fleet.clock.advance(minutes=59)
    await passes.run_once()
    fleet.clock.set(days=-400)
    fleet.clock.advance(hours=2)
    await passes.run_once()

    assert await fleet.stores.jobs.result(job_id) is not None


async def test_a_clock_that_is_set_right_holds_pruning_up_for_an_hour() -> None:
    fleet = Fleet()
    await fleet.submit(1)
    await fleet.answer()
    passes = pruner(fleet)
    await passes.run_once()

    fleet.clock.set(days=8)
    await fleet.run("live")
    assert await passes.run_once() == 0
    fleet.clock.advance(hours=1)

    # The job, its batch, and the credential that only they needed.
    assert await passes.run_once() == 3


async def test_nothing_that_is_under_way_is_ever_erased() -> None:
    fleet = Fleet()
    fleet.provider.stalled = True
    await fleet.submit(12)
    await fleet.accept()

    fleet.clock.advance(days=400)
    await pruner(fleet).run_once()

    assert await fleet.states() == {JobState.BATCHED: 12, JobState.QUEUED: 1}
    assert await fleet.stores.credentials.all()


async def test_a_credential_that_nothing_needs_is_forgotten_in_the_pass_after() -> None:
    fleet = Fleet()
    (job_id,) = await fleet.submit(1)
    await fleet.cancel(job_id)
    await fleet.add_credential("credential-9", owner="owner-9")
    fleet.clock.advance(minutes=7)
    await fleet.run("live", "collect", "collect")

    first = await pruner(fleet).run_once()
    second = await pruner(fleet).run_once()

    assert (first, second) == (0, 2)
    assert await fleet.stores.credentials.all() == []


async def test_a_pass_is_bounded_and_the_next_goes_on() -> None:
    fleet = Fleet()
    rounds: list[int] = []
    left = [PER_PASS * (MAX_ROUNDS + 5)]

    async def prune(*, finalized_before, limit: int) -> int:
        rounds.append(limit)
        pruned = min(limit, left[0])
        left[0] -= pruned
        return pruned

    fleet.instances[0].ground.jobs.prune = prune  # type: ignore[method-assign]

    assert await pruner(fleet).run_once() == PER_PASS * MAX_ROUNDS
    assert rounds == [PER_PASS] * MAX_ROUNDS
    assert await pruner(fleet).run_once() == PER_PASS * 5
    assert await pruner(fleet).run_once() == 0


async def test_only_one_instance_prunes_at_a_time() -> None:
    fleet = Fleet(instances=2)
    await fleet.submit(1)
    await fleet.answer()
    fleet.clock.advance(days=8)

    async with fleet.instances[1].leases.held("pass:prune"):
        assert await pruner(fleet).run_once() == 0

    assert await pruner(fleet).run_once() == 2


async def test_days_of_the_ledger_outlive_the_jobs_and_are_erased_after_their_own_time() -> None:
    fleet = Fleet()
    await fleet.submit(1)
    await fleet.answer()

    fleet.clock.advance(seconds=9 * KEPT.total_seconds())
    await pruner(fleet).run_once()
    assert (await fleet.booked()).answers == 1
    fleet.clock.advance(seconds=2 * KEPT.total_seconds())
    await pruner(fleet).run_once()

    assert (await fleet.booked()).answers == 0
