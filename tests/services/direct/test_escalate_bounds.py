"""What direct calls may not do: come all at once, or lose an answer that is paid for."""

import asyncio
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

import pytest
import structlog

from proxy.core.errors import StoreCorruptError, StoreError, StoreUnavailableError
from proxy.core.ids import CredentialId, JobId
from proxy.core.job import JobState
from proxy.ports.jobs import JobWrite
from proxy.ports.notes import Note
from proxy.services.direct.budget import HourlyLimits
from proxy.services.direct.escalate import UNREACHED_PAUSE, UNREAD_PARTS
from proxy.services.direct.finish import DAMAGED_TRIES, STORE_PAUSE_S
from proxy.services.direct.lessons import BUSY
from tests.helpers.factories import CREDENTIAL
from tests.helpers.fake_provider import Fault
from tests.helpers.fleet import TIMES, Fleet
from tests.helpers.loops import settled
from tests.services.direct.test_escalate import Line, abandoned


def unheard(monkeypatch: pytest.MonkeyPatch, fleet: Fleet, state: JobState) -> None:
    """Have the store execute one write of jobs in `state`, and lose what it says of it."""
    write, lost = fleet.stores.jobs.replace_many, [state]

    async def written(writes: Sequence[JobWrite]) -> Collection[JobId]:
        refused = await write(writes)
        if writes[0].after.state in lost:
            lost.clear()
            raise StoreUnavailableError("it does not answer")
        return refused

    monkeypatch.setattr(fleet.stores.jobs, "replace_many", written)


async def test_a_batch_that_comes_back_is_no_stampede():
    fleet = Fleet()
    for _ in range(30):
        await fleet.accept(deadline=timedelta(minutes=20))

    await fleet.run("escalate")

    assert fleet.provider.requests["call"] == TIMES.calls_per_s


async def test_a_busy_provider_is_left_alone_for_other_jobs_too():
    fleet, calls = Fleet(), []
    at_once = int(TIMES.calls_per_s)
    await fleet.accept_many(3 * at_once, deadline=timedelta(minutes=20))
    fleet.will("call", "busy", times=at_once)

    async with asyncio.TaskGroup() as tasks:
        escalator = fleet.instances[0].make_escalator(tasks)
        for _ in range(4):
            await escalator.run_once()
            await settled()
            calls.append(fleet.provider.requests["call"])
            fleet.clock.advance(seconds=BUSY.first.total_seconds() / 2)

    assert calls == [at_once, at_once, 2 * at_once, 3 * at_once]


async def test_a_provider_that_has_answered_since_is_left_alone_no_longer_than_before():
    fleet = Fleet()
    async with asyncio.TaskGroup() as tasks:
        escalator = fleet.instances[0].make_escalator(tasks)
        for _ in range(2):
            await fleet.accept(deadline=timedelta(minutes=20))
            fleet.will("call", "busy")
            for _ in range(2):
                await escalator.run_once()
                await settled()
                fleet.clock.advance(seconds=BUSY.first.total_seconds())

    assert fleet.provider.requests["call"] == 4
    assert await fleet.states() == {JobState.COMPLETED: 2}


@pytest.mark.parametrize("error", [StoreUnavailableError("full"), StoreCorruptError("damaged")])
async def test_an_answer_waits_for_a_store_that_does_not_take_it(
    monkeypatch: pytest.MonkeyPatch, error: StoreError
):
    fleet = Fleet()
    job_id = await fleet.accept(deadline=timedelta(minutes=20))
    away = 2
    write = fleet.stores.jobs.replace_many

    async def flaky(writes):
        nonlocal away
        if away and writes[0].after.state is JobState.COMPLETED:
            away -= 1
            raise error
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


@pytest.mark.parametrize(("fault", "useless", "possible"), [(None, 1, 0), ("lost_after", 0, 1)])
async def test_what_a_job_bought_that_cannot_be_read_any_more_is_booked_and_given_up(
    fault: Fault | None, useless: int, possible: int
):
    fleet = Fleet()
    damaged = await fleet.accept(deadline=timedelta(minutes=20))
    if fault is not None:
        fleet.will("call", fault)

    async def damage() -> None:
        fleet.stores.jobs.damaged.add(damaged)

    fleet.provider.in_the_middle["call"] = damage
    with structlog.testing.capture_logs() as said:
        async with asyncio.TaskGroup() as tasks:
            escalator = fleet.instances[0].make_escalator(tasks)
            await escalator.run_once()
            for _ in range(DAMAGED_TRIES):
                await settled()
                fleet.clock.advance(seconds=STORE_PAUSE_S)
            await settled()
            running = escalator.running
            fleet.stores.jobs.damaged.clear()
            given_back = await escalator.release_lost()
            escalator.abandon()

    # Nor is it bought again, at least until its instance has gone.
    assert (running, given_back) == (0, 0)
    told = [line for line in said if line["event"] == "call.unrecorded"]
    assert [(line["log_level"], line["job_id"]) for line in told] == [("error", damaged)]
    booked = await fleet.booked()
    assert (booked.useless, booked.possible_doubles) == (useless, possible)
    assert fleet.tally.counts["late_result"] + fleet.tally.counts["possible_double"] == (
        useless + possible
    )


@pytest.mark.parametrize(
    ("revoked", "note", "state"),
    [(set(), "accepted", JobState.COMPLETED), ({"Bearer credential-1"}, "pause", JobState.QUEUED)],
    ids=["accepted", "refused"],
)
async def test_an_answer_waits_for_a_store_that_takes_no_note_of_its_credential(
    monkeypatch: pytest.MonkeyPatch, revoked: set[str], note: str, state: JobState
):
    fleet = Fleet()
    job_id = await fleet.accept(deadline=timedelta(minutes=20))
    fleet.provider.revoked |= revoked
    take, away = getattr(fleet.stores.credentials, note), [True]

    async def flaky(*arguments: Any, **more: Any) -> None:
        if away:
            away.clear()
            raise StoreUnavailableError("it does not answer")
        await take(*arguments, **more)

    monkeypatch.setattr(fleet.stores.credentials, note, flaky)

    async def time_passes() -> None:
        while (await fleet.job(job_id)).attempt == 0 or away:
            await settled()
        fleet.clock.advance(seconds=STORE_PAUSE_S)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(time_passes())
        await fleet.instances[0].run("escalate")

    assert (await fleet.job(job_id)).state is state
    assert fleet.provider.requests["call"] == 1
    credential = await fleet.stores.credentials.get(CREDENTIAL)
    assert credential is not None
    assert (credential.paused_at is not None) == bool(revoked)


async def test_a_call_whose_intent_was_written_unheard_is_made_after_all(
    monkeypatch: pytest.MonkeyPatch,
):
    fleet = Fleet()
    job_id = await fleet.accept(deadline=timedelta(minutes=20))
    unheard(monkeypatch, fleet, JobState.ESCALATING)
    with pytest.RaisesGroup(StoreUnavailableError):
        await fleet.run("escalate")
    assert (await fleet.job(job_id)).state is JobState.ESCALATING
    assert fleet.provider.requests["call"] == 0

    await fleet.run("live", "rescue", "lost_calls", "escalate")

    job = await fleet.job(job_id)
    assert (job.state, job.possible_doubles) == (JobState.COMPLETED, 0)
    assert fleet.provider.requests["call"] == 1


async def test_calls_that_did_not_begin_leave_their_room_in_the_budget(
    monkeypatch: pytest.MonkeyPatch,
):
    fleet = Fleet(budget=HourlyLimits(calls=3))
    job_ids = [await fleet.accept(deadline=timedelta(minutes=20)) for _ in range(3)]
    unheard(monkeypatch, fleet, JobState.ESCALATING)
    with pytest.RaisesGroup(StoreUnavailableError):
        await fleet.run("escalate")

    await fleet.run("live", "lost_calls", "escalate")

    assert [(await fleet.job(job_id)).state for job_id in job_ids] == [JobState.COMPLETED] * 3


async def test_a_call_that_is_refused_for_its_rate_leaves_its_room_in_the_budget():
    fleet = Fleet(budget=HourlyLimits(calls=1))
    job_id = await fleet.accept(deadline=timedelta(minutes=20))
    answer, fleet.provider.answer_call = fleet.provider.answer_call, lambda _: (429, b"{}")
    for _ in range(3):
        await fleet.wait(timedelta(minutes=1), "escalate")
    assert fleet.provider.requests["call"] == 3

    fleet.provider.answer_call = answer
    await fleet.wait(timedelta(minutes=1), "escalate")

    assert (await fleet.job(job_id)).state is JobState.COMPLETED


async def test_calls_that_do_not_leave_spend_nothing_of_the_budget():
    fleet = Fleet(budget=HourlyLimits(calls=1))
    job_id = await fleet.accept(deadline=timedelta(minutes=20))
    fleet.will("call", "lost_before", times=3)

    for _ in range(4):
        await fleet.wait(timedelta(minutes=1), "escalate")

    assert (await fleet.job(job_id)).state is JobState.COMPLETED


async def test_a_call_without_an_answer_has_spent_its_part_of_the_budget():
    fleet = Fleet(budget=HourlyLimits(calls=1))
    await fleet.accept(deadline=timedelta(minutes=20))
    fleet.will("call", "lost_after")

    for _ in range(3):
        await fleet.wait(timedelta(minutes=1), "escalate")

    assert fleet.provider.requests["call"] == 1


async def test_a_budget_that_takes_nothing_back_loses_no_answer(monkeypatch: pytest.MonkeyPatch):
    fleet = Fleet(budget=HourlyLimits(calls=1))
    job_id = await fleet.accept(deadline=timedelta(minutes=20))
    fleet.will("call", "lost_before")
    write, writes = fleet.stores.notes.write, 0

    async def away(name: str, note: Note) -> bool:
        nonlocal writes
        writes += 1
        if writes > 1:
            raise StoreUnavailableError("it does not answer")
        return await write(name, note)

    monkeypatch.setattr(fleet.stores.notes, "write", away)

    await fleet.run("escalate")

    assert writes == 2
    assert (await fleet.job(job_id)).state is JobState.QUEUED


async def test_a_call_that_is_under_way_is_not_lost():
    fleet = Fleet()
    job_id = await fleet.accept(deadline=timedelta(minutes=20))
    line = Line(fleet.provider)
    async with asyncio.TaskGroup() as tasks:
        escalator = fleet.instances[0].make_escalator(tasks)
        await escalator.run_once()
        await settled()
        assert (await fleet.job(job_id)).state is JobState.ESCALATING

        assert await escalator.release_lost() == 0
        line.open.set()

    assert (await fleet.job(job_id)).state is JobState.COMPLETED


async def test_a_call_that_begins_at_this_moment_is_not_lost(monkeypatch: pytest.MonkeyPatch):
    fleet = Fleet()
    job_id = await fleet.accept(deadline=timedelta(minutes=20))
    write, looks = fleet.stores.jobs.replace_many, []
    async with asyncio.TaskGroup() as tasks:
        escalator = fleet.instances[0].make_escalator(tasks)

        async def written(writes: Sequence[JobWrite]) -> Collection[JobId]:
            refused = await write(writes)
            looks.append(await escalator.release_lost())
            return refused

        monkeypatch.setattr(fleet.stores.jobs, "replace_many", written)
        await escalator.run_once()

    assert looks == [0, 0]
    assert (await fleet.job(job_id)).state is JobState.COMPLETED


async def test_the_calls_of_a_stopped_instance_are_not_given_back():
    fleet = Fleet()
    job_id = await fleet.accept(deadline=timedelta(minutes=20))
    escalator = await abandoned(fleet)

    # They may be paid for: whoever takes over says so.
    assert await escalator.release_lost() == 0
    assert (await fleet.job(job_id)).state is JobState.ESCALATING


async def test_an_answer_that_was_written_unheard_is_counted_once(monkeypatch: pytest.MonkeyPatch):
    fleet = Fleet()
    job_id = await fleet.accept(deadline=timedelta(minutes=20))
    unheard(monkeypatch, fleet, JobState.COMPLETED)
    instance = fleet.instances[0]
    woken = instance.watch_wakes()

    async def time_passes() -> None:
        while not woken:
            await settled()
            fleet.clock.advance(seconds=STORE_PAUSE_S)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(time_passes())
        await instance.run("escalate")

    assert woken == [job_id]
    assert fleet.tally.counts["job_ended"] == 1
    assert fleet.tally.counts["late_result"] == 0
    assert (await fleet.booked()).useless == 0


async def test_a_call_that_cannot_be_read_is_not_tried_all_the_time() -> None:
    fleet = Fleet()
    damaged = await fleet.accept(deadline=timedelta(minutes=10))
    other = await fleet.accept(deadline=timedelta(minutes=20))
    fleet.stores.jobs.damaged_bodies.add(damaged)

    await fleet.run("escalate", "escalate", "escalate")

    assert (await fleet.job(damaged)).attempt == 1
    assert (await fleet.job(other)).state is JobState.COMPLETED
    await fleet.wait(UNREACHED_PAUSE, "escalate")
    assert (await fleet.job(damaged)).attempt == 1
    await fleet.wait(timedelta(minutes=10) / UNREAD_PARTS - UNREACHED_PAUSE, "escalate")
    assert (await fleet.job(damaged)).attempt == 2


async def test_calls_that_cannot_be_read_take_no_place_of_others():
    fleet = Fleet()
    several = int(20 * TIMES.calls_per_s)
    damaged = await fleet.accept_many(several, deadline=timedelta(minutes=20))
    other = await fleet.accept(deadline=timedelta(minutes=25))
    fleet.stores.jobs.damaged_bodies.update(damaged)

    async with asyncio.TaskGroup() as tasks:
        escalator = fleet.instances[0].make_escalator(tasks)
        for _ in range(60):
            await escalator.run_once()
            await settled()
            fleet.clock.advance(seconds=0.5)

    assert (await fleet.job(other)).state is JobState.COMPLETED


async def test_a_credential_that_cannot_be_read_holds_up_its_own_jobs_alone():
    fleet = Fleet()
    lost = await fleet.accept(deadline=timedelta(minutes=10), credential="damaged")
    other = await fleet.accept(deadline=timedelta(minutes=20))
    fleet.stores.credentials.damaged.add(CredentialId("damaged"))

    with structlog.testing.capture_logs() as said:
        async with asyncio.TaskGroup() as tasks:
            escalator = fleet.instances[0].make_escalator(tasks)
            await escalator.run_once()
            await escalator.run_once()

    assert (await fleet.job(other)).state is JobState.COMPLETED
    assert (await fleet.job(lost)).state is JobState.QUEUED
    unread = [line for line in said if line["event"] == "job.unread"]
    assert [(line["credential"], line["jobs"]) for line in unread] == [("damaged", 1)]

    fleet.stores.credentials.damaged.clear()
    await fleet.run("escalate")

    assert (await fleet.job(lost)).state is JobState.COMPLETED
