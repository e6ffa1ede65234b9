import asyncio
import socket
import threading

import pytest

from proxy.upstreams.addresses import Addresses

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]


class Names:
    """The system's resolver, which answers when it is let to."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = threading.Event()
        self.fails = False

    def __call__(self, host: object, *args: object, **kwargs: object) -> list[object]:
        self.asked += 1
        assert self.may_answer.wait(20)
        if self.fails:
            raise socket.gaierror("no such name")
        return list(FOUND)


@pytest.fixture
def names(monkeypatch) -> Names:
    found = Names()
    monkeypatch.setattr(socket, "getaddrinfo", found)
    return found


async def test_a_burst_of_connections_asks_once(names):
    addresses = Addresses()
    async with asyncio.TaskGroup() as tasks:
        burst = [tasks.create_task(addresses.of("a.test", 80)) for _ in range(5)]
        await asyncio.sleep(0)
        names.may_answer.set()

    assert [one.result() for one in burst] == [FOUND] * 5
    assert names.asked == 1
    await addresses.of("a.test", 80)
    assert names.asked == 1
    await addresses.of("b.test", 80)
    assert names.asked == 2


async def test_nothing_is_remembered_beyond_its_time(names):
    names.may_answer.set()
    addresses = Addresses(remembered_s=0)

    await addresses.of("a.test", 80)
    await addresses.of("a.test", 80)

    assert names.asked == 2


async def test_what_did_not_lead_anywhere_is_asked_anew(names):
    names.may_answer.set()
    addresses = Addresses()
    await addresses.of("a.test", 80)

    addresses.forget("a.test", 80)
    addresses.forget("never.test", 80)
    await addresses.of("a.test", 80)

    assert names.asked == 2


async def test_one_who_gives_up_does_not_end_the_search_of_the_others(names):
    addresses = Addresses()
    async with asyncio.TaskGroup() as tasks:
        impatient = tasks.create_task(addresses.of("a.test", 80))
        patient = tasks.create_task(addresses.of("a.test", 80))
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.sleep(0)
        names.may_answer.set()

    assert patient.result() == FOUND


async def test_a_failure_is_told_and_not_remembered(names):
    names.may_answer.set()
    names.fails = True
    addresses = Addresses()
    with pytest.raises(OSError, match="no such name"):
        await addresses.of("a.test", 80)

    names.fails = False

    assert await addresses.of("a.test", 80) == FOUND
