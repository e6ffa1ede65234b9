"""What direct calls may not do: come all at once, or lose an answer that is paid for."""

import asyncio
from datetime import timedelta

import pytest

from proxy.core.errors import StoreUnavailableError
from proxy.core.ids import CredentialId
from proxy.core.job import JobState
from proxy.core.lanes import Lane
from proxy.services.direct.escalate import STORE_PAUSE_S, Rate
from tests.helpers.fleet import TIMES, Fleet
from tests.services.direct.test_escalate import settled

ONE = (Lane.INTERACTIVE, CredentialId("credential-1"))
OTHER = (Lane.INTERACTIVE, CredentialId("credential-2"))


def test_a_second_of_calls_may_begin_at_once_and_then_so_many_a_second():
    rate = Rate()

    assert rate.left(ONE, 10.0, 0.0) == 10
    for _ in range(10):
        rate.spend(ONE)

    assert rate.left(ONE, 10.0, 0.0) == 0
    assert rate.left(ONE, 10.0, 0.5) == 5
    assert rate.left(ONE, 10.0, 1_000.0) == 10
    assert rate.left(OTHER, 10.0, 0.5) == 10


def test_a_slow_rate_still_lets_one_call_begin():
    rate = Rate()
    assert rate.left(ONE, 0.1, 0.0) == 1
    rate.spend(ONE)

    assert rate.left(ONE, 0.1, 9.0) == 0
    assert rate.left(ONE, 0.1, 10.1) == 1


async def test_a_batch_that_comes_back_is_no_stampede():
    fleet = Fleet()
    for _ in range(30):
        await fleet.accept(deadline=timedelta(minutes=20))

    await fleet.run("escalate")

    assert fleet.provider.requests["call"] == TIMES.calls_per_s


async def test_an_answer_waits_for_a_store_that_is_away(monkeypatch: pytest.MonkeyPatch):
    fleet = Fleet()
    job_id = await fleet.accept(deadline=timedelta(minutes=20))
    away = 2
    write = fleet.stores.jobs.replace_many

    async def flaky(writes):
        nonlocal away
        if away and writes[0].after.state is JobState.COMPLETED:
            away -= 1
            raise StoreUnavailableError("the disk is full")
        return await write(writes)

    monkeypatch.setattr(fleet.stores.jobs, "replace_many", flaky)
    instance = fleet.instances[0]

    async def time_passes() -> None:
        while (await fleet.job(job_id)).state is not JobState.COMPLETED:
            await settled()
            fleet.clock.advance(seconds=STORE_PAUSE_S)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(time_passes())
        await instance.run("escalate")

    assert (await fleet.job(job_id)).state is JobState.COMPLETED
    assert fleet.provider.requests["call"] == 1
