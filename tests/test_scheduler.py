"""The loop that drives every background pass."""

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from proxy.core.errors import StoreUnavailableError
from proxy.scheduler import Pass, Scheduler
from proxy.telemetry import Metrics
from tests.helpers.factories import T0
from tests.helpers.fakes import FakeClock

NEVER = timedelta(days=1)
AT_ONCE = timedelta(0)


class Counted:
    """A pass that counts its runs and lets tests await a certain one."""

    def __init__(self, *, fails=None, moved=1):
        self.runs = 0
        self._fails = fails
        self._moved = moved
        self._changed = asyncio.Condition()

    async def run_once(self):
        self.runs += 1
        async with self._changed:
            self._changed.notify_all()
        if self._fails is not None:
            raise self._fails
        return self._moved

    async def reaches(self, runs):
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(lambda: self.runs >= runs)


def make_scheduler(*passes, metrics=None):
    return Scheduler(passes, clock=FakeClock(T0), metrics=metrics or Metrics(strict=True))


@asynccontextmanager
async def running(scheduler):
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        tasks.create_task(scheduler.run())
        try:
            yield scheduler
        finally:
            scheduler.stop()


async def test_a_pass_runs_again_after_its_interval():
    flush = Counted()
    one = Pass("flush", timedelta(milliseconds=1), flush.run_once, rest=AT_ONCE)

    async with running(make_scheduler(one)):
        await flush.reaches(3)


async def test_a_pass_runs_at_once_and_then_waits_for_its_interval():
    quick, slow = Counted(), Counted()
    passes = [
        Pass("quick", timedelta(milliseconds=1), quick.run_once, rest=AT_ONCE),
        Pass("slow", NEVER, slow.run_once),
    ]

    async with running(make_scheduler(*passes)):
        await quick.reaches(20)

    assert slow.runs == 1


async def test_a_wake_up_brings_the_next_pass_forward():
    flush = Counted()

    async with running(make_scheduler(Pass("flush", NEVER, flush.run_once))) as scheduler:
        await flush.reaches(1)
        scheduler.wake("flush")
        await flush.reaches(2)


async def test_a_pass_that_is_wanted_within_a_while_runs_then_and_not_before():
    flush = Counted()
    one = Pass("flush", NEVER, flush.run_once, rest=AT_ONCE)

    async with running(make_scheduler(one)) as scheduler:
        await flush.reaches(1)
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        wanted = loop.time() + 0.05
        scheduler.wake("flush", within=timedelta(hours=1))
        scheduler.wake("flush", within=timedelta(seconds=0.05))
        await flush.reaches(2)

        assert loop.time() >= wanted
        assert flush.runs == 2


async def test_what_happens_during_a_pass_leads_to_another_one():
    begun, go_on = asyncio.Event(), asyncio.Event()
    runs = 0

    async def run_once():
        nonlocal runs
        runs += 1
        begun.set()
        await go_on.wait()
        return 0

    one = Pass("flush", NEVER, run_once, rest=AT_ONCE)
    async with running(make_scheduler(one)) as scheduler:
        await begun.wait()
        scheduler.wake("flush")
        begun.clear()
        go_on.set()
        await begun.wait()

    assert runs == 2


async def test_however_often_it_is_woken_a_pass_rests():
    other, woken = Counted(), Counted()
    passes = [
        Pass("other", timedelta(milliseconds=1), other.run_once, rest=AT_ONCE),
        Pass("woken", NEVER, woken.run_once, rest=NEVER / 2),
    ]

    async with running(make_scheduler(*passes)) as scheduler:
        for runs in range(1, 30):
            scheduler.wake("woken")
            await other.reaches(runs)

    assert woken.runs == 1


async def test_an_expected_failure_is_logged_and_counted_and_the_next_pass_goes_on():
    failing = Counted(fails=StoreUnavailableError("no answer", hint="look at its disk"))
    metrics = Metrics(strict=True)
    one = Pass("poll", timedelta(milliseconds=1), failing.run_once, rest=AT_ONCE)

    with capture_logs() as logs:
        async with running(make_scheduler(one, metrics=metrics)):
            await failing.reaches(3)

    assert metrics.value("pass_failed", name="poll", code="store_unavailable") >= 2
    line = next(line for line in logs if line["event"] == "pass.failed")
    assert (line["name"], line["code"], line["hint"]) == (
        "poll",
        "store_unavailable",
        "look at its disk",
    )
    assert line["log_level"] == "warning"


async def test_a_failure_that_lasts_is_logged_now_and_then_and_its_end_once():
    clock, runs = FakeClock(T0), 0
    away, full = StoreUnavailableError("no answer"), StoreUnavailableError("it is full")
    scheduler = Scheduler([], clock=clock, metrics=Metrics(strict=True))
    # Half a minute between any two.
    outcomes = [away, away, away, away, full, None, None, away]

    async def run_once() -> int:
        nonlocal runs
        runs += 1
        outcome = outcomes[runs - 1]
        if outcome is not None:
            raise outcome
        return 0

    with capture_logs() as logs:
        for _ in outcomes:
            await scheduler._run_once(Pass("poll", NEVER, run_once))
            clock.advance(seconds=30)

    told = [
        (one["event"], one.get("error"), one["times"])
        for one in logs
        if one["event"] != "pass.done"
    ]
    assert told == [
        ("pass.failed", "no answer", 1),
        ("pass.failed", "no answer", 3),
        ("pass.failed", "it is full", 5),
        ("pass.recovered", None, 5),
        ("pass.failed", "no answer", 1),
    ]
    assert [one["lasted_s"] for one in logs if one["event"] == "pass.recovered"] == [150.0]


async def test_a_bug_stops_every_pass_and_comes_out():
    bug = Counted(fails=AssertionError("a bug"))
    cancelled = asyncio.Event()

    async def other():
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return 0

    scheduler = make_scheduler(Pass("bug", NEVER, bug.run_once), Pass("other", NEVER, other))
    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.timeout(20):
            await scheduler.run()

    assert raised.value.subgroup(AssertionError) is not None
    assert cancelled.is_set()
    assert bug.runs == 1


async def test_a_pass_in_progress_is_not_interrupted_by_stop():
    begun, go_on = asyncio.Event(), asyncio.Event()
    ended = False

    async def run_once():
        nonlocal ended
        begun.set()
        await go_on.wait()
        ended = True
        return 0

    scheduler = make_scheduler(Pass("flush", NEVER, run_once))
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        run = tasks.create_task(scheduler.run())
        await begun.wait()
        scheduler.stop()
        await asyncio.sleep(0)
        assert not run.done()
        go_on.set()

    assert ended


async def test_one_that_overlaps_begins_though_the_one_before_is_not_over():
    runs, go_on = 0, asyncio.Event()
    third = asyncio.Event()

    async def run_once():
        nonlocal runs
        runs += 1
        if runs == 3:
            third.set()
        await go_on.wait()
        return 0

    one = Pass("collect", timedelta(milliseconds=1), run_once, rest=AT_ONCE, overlaps=True)
    scheduler = make_scheduler(one)
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        run = tasks.create_task(scheduler.run())
        await third.wait()
        scheduler.stop()
        await asyncio.sleep(0)
        assert not run.done()
        go_on.set()


async def test_stop_does_not_wait_for_the_interval():
    flush = Counted()
    scheduler = make_scheduler(Pass("flush", NEVER, flush.run_once, rest=NEVER / 2))

    async with running(scheduler):
        await flush.reaches(1)

    assert flush.runs == 1


async def test_the_duration_of_a_pass_is_measured_even_if_it_fails():
    clock, metrics, begun = FakeClock(T0), Metrics(strict=True), asyncio.Event()

    async def run_once():
        begun.set()
        clock.advance(seconds=0.3)
        raise StoreUnavailableError("no answer")

    scheduler = Scheduler([Pass("poll", NEVER, run_once)], clock=clock, metrics=metrics)
    async with running(scheduler):
        await begun.wait()

    counts, total = metrics.snapshot().histograms["pass_seconds"]["poll",]
    assert sum(counts) == 1
    assert total == pytest.approx(0.3)


def test_two_passes_of_one_name_are_a_bug():
    flush = Counted()

    with pytest.raises(AssertionError):
        make_scheduler(Pass("flush", NEVER, flush.run_once), Pass("flush", NEVER, flush.run_once))
