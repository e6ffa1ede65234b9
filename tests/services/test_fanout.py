"""The same for many things, a few at a time."""

import asyncio

import pytest

from proxy.core.errors import ProviderUnavailableError, StoreUnavailableError
from proxy.services.fanout import each


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


async def test_a_bug_ends_everything() -> None:
    async def work(thing: int) -> bool:
        if thing == 1:
            raise AssertionError("a bug")
        await asyncio.Event().wait()
        return True

    with pytest.raises(ExceptionGroup) as raised:
        await each(range(3), work, limit=3)

    assert raised.group_contains(AssertionError)
