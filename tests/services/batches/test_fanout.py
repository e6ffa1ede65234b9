"""The same for many things, a few at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import pytest
from structlog.testing import capture_logs

from proxy.core.errors import ProviderUnavailableError, StoreCorruptError, StoreUnavailableError
from proxy.services.batches.fanout import Fanout


async def each(things: Iterable[int], work: Callable[[int], Awaitable[bool]], *, limit: int) -> int:
    return await Fanout[int](limit=limit).each([(thing, "group") for thing in things], work)


async def test_everything_is_done_and_what_moved_is_counted() -> None:
    done = []

    async def work(thing: int) -> bool:
        done.append(thing)
        return thing % 2 == 0

    assert await each(range(5), work, limit=2) == 3
    assert sorted(done) == [0, 1, 2, 3, 4]


async def test_nothing_to_do_is_no_work() -> None:
    async def work(thing: int) -> bool:
        raise AssertionError(thing)

    assert await each([], work, limit=2) == 0


async def test_no_more_than_the_limit_run_at_once() -> None:
    running, most = 0, 0

    async def work(_: int) -> bool:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(3):
            await asyncio.sleep(0)
        running -= 1
        return True

    assert await each(range(20), work, limit=3) == 20
    assert most == 3


@pytest.mark.parametrize("error", [ProviderUnavailableError("503"), StoreUnavailableError("gone")])
async def test_an_expected_failure_of_one_harms_no_other(error: Exception) -> None:
    async def work(thing: int) -> bool:
        if thing == 1:
            raise error
        return True

    assert await each(range(4), work, limit=1) == 3


async def test_what_cannot_be_read_is_tried_each_time_and_said_once() -> None:
    fanout, tried = Fanout[int](limit=1), []
    damaged = [True, True, False, True]

    async def work(thing: int) -> bool:
        tried.append(thing)
        if damaged.pop(0):
            raise StoreCorruptError("altered", hint="put it back")
        return True

    with capture_logs() as said:
        moved = [await fanout.each([(1, "group")], work) for _ in range(4)]

    assert moved == [0, 0, 1, 0]
    assert [(line["log_level"], line["hint"]) for line in said] == [("warning", "put it back")] * 2


async def test_a_bug_ends_everything() -> None:
    async def work(thing: int) -> bool:
        if thing == 1:
            raise AssertionError("a bug")
        await asyncio.Event().wait()
        return True

    with pytest.raises(ExceptionGroup) as raised:
        await each(range(3), work, limit=3)

    assert raised.group_contains(AssertionError)


async def test_a_slow_one_holds_up_neither_other_groups_nor_the_next_round() -> None:
    done: list[int] = []
    go = asyncio.Event()

    async def work(thing: int) -> bool:
        if thing < 2:
            await go.wait()
        done.append(thing)
        return True

    fanout = Fanout[int](limit=1)
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(fanout.each([(0, "slow"), (1, "slow"), (2, "quick")], work))
        await asyncio.sleep(0)
        again = await fanout.each([(0, "slow"), (1, "slow"), (3, "quick")], work)
        assert (again, sorted(done)) == (1, [2, 3])
        go.set()

    assert first.result() == 3
    assert sorted(done) == [0, 1, 2, 3]
    assert await fanout.each([(0, "slow")], work) == 1


async def test_what_is_done_may_be_done_again_and_still_not_twice_at_once() -> None:
    running: list[int] = []
    go = {0: asyncio.Event(), 1: asyncio.Event()}
    go[0].set()

    async def work(thing: int) -> bool:
        running.append(thing)
        await go[thing].wait()
        running.remove(thing)
        return True

    fanout = Fanout[int](limit=9)
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(fanout.each([(0, "a"), (1, "a")], work))
        while running != [1]:
            await asyncio.sleep(0)
        go[0].clear()
        second = tasks.create_task(fanout.each([(0, "a")], work))
        await asyncio.sleep(0)
        go[1].set()
        await first
        assert running == [0]
        assert await fanout.each([(0, "a")], work) == 0
        assert running == [0]
        go[0].set()
    assert second.result() == 1
