"""Who gets a connection, when, and for how long one is kept."""

import asyncio
import socket
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from proxy.ports.upstream import ClientLimits, Phase, UpstreamUnavailableError
from proxy.upstreams.lean_client import LeanClient
from tests.helpers.ports import free_port
from tests.helpers.raw_upstream import RawConnection, RawUpstream, replying, wait_until
from tests.upstreams.clients import OK, opened, read_all, request


class Slow:
    """Upstreams that answer when they are let to; `order` is that of the calls."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.go = asyncio.Semaphore(0)
        self.ports: dict[str, int] = {}

    def script(self, name: str):
        async def play(connection: RawConnection) -> None:
            while True:
                self.order.append(f"{name}{(await connection.request()).value(b'n')!s}")
                await self.go.acquire()
                await connection.send(OK)

        return play


@asynccontextmanager
async def slow(*names):
    stage = Slow()
    async with AsyncExitStack() as stack:
        for name in names:
            upstream = await stack.enter_async_context(RawUpstream(stage.script(name)))
            stage.ports[name] = upstream.port
        yield stage


def calls(tasks, client, stage, *names):
    async def call(name: str, number: int) -> None:
        headers = ((b"n", b"%d" % number),)
        await read_all(await client.send(request(stage.ports[name], headers=headers)))

    return [tasks.create_task(call(name, number)) for number, name in enumerate(names)]


async def settled(client, waiting: int) -> None:
    await wait_until(lambda: client._pool._waiting == waiting, f"{waiting} to wait")


def named(*numbered: tuple[str, int]) -> list[str]:
    return [f"{name}{str(number).encode()!s}" for name, number in numbered]


async def test_those_who_wait_are_served_in_the_order_of_their_asking():
    limits = ClientLimits(max_per_upstream=1)
    async with (
        slow("a") as stage,
        opened(LeanClient, limits) as client,
        asyncio.TaskGroup() as tasks,
    ):
        calls(tasks, client, stage, *"aaaa")
        await settled(client, 3)
        for _ in range(4):
            stage.go.release()

    assert stage.order == named(("a", 0), ("a", 1), ("a", 2), ("a", 3))


async def test_one_upstream_at_its_bound_leaves_room_for_another():
    limits = ClientLimits(max_per_upstream=2, max_connections=3)
    async with (
        slow("a", "b") as stage,
        opened(LeanClient, limits) as client,
        asyncio.TaskGroup() as tasks,
    ):
        calls(tasks, client, stage, *"aaaab")
        await wait_until(lambda: len(stage.order) == 3, "three calls upstream")
        await settled(client, 2)
        assert sorted(name[0] for name in stage.order) == ["a", "a", "b"]
        for _ in range(5):
            stage.go.release()


async def test_a_place_goes_to_whoever_waits_longest_whatever_the_upstream():
    limits = ClientLimits(max_connections=1)
    async with (
        slow("a", "b") as stage,
        opened(LeanClient, limits) as client,
        asyncio.TaskGroup() as tasks,
    ):
        calls(tasks, client, stage, *"abab")
        await settled(client, 3)
        for _ in range(4):
            stage.go.release()

    assert stage.order == named(("a", 0), ("b", 1), ("a", 2), ("b", 3))


async def test_a_free_connection_makes_room_for_another_upstream():
    limits = ClientLimits(max_connections=2)
    async with slow("a", "b", "c") as stage, opened(LeanClient, limits) as client:
        for _ in range(4):
            stage.go.release()
        for name in "abca":
            await read_all(await client.send(request(stage.ports[name])))

        assert client._pool._open == 2
        await wait_until(lambda: len(client._pool._all) == 2, "the oldest to be gone")


async def test_one_who_gives_up_waiting_loses_no_place():
    limits = ClientLimits(max_connections=1)
    async with slow("a", "b") as stage, opened(LeanClient, limits) as client:
        async with asyncio.TaskGroup() as tasks:
            first, second, third, _ = calls(tasks, client, stage, *"abab")
            await settled(client, 3)
            second.cancel()
            await settled(client, 2)
            stage.go.release()
            await first
            # The third has been given the connection and does not know yet.
            third.cancel()
            for _ in range(2):
                stage.go.release()

        assert stage.order[-1] == named(("b", 3))[0]
        assert client._pool._open <= 1


@pytest.mark.parametrize("granted", ["a connection", "a place"])
async def test_what_is_granted_to_one_who_just_gave_up_goes_to_the_next(granted):
    limits = ClientLimits(max_connections=1)
    async with RawUpstream(replying(OK)) as upstream, opened(LeanClient, limits) as client:
        pool, site = client._pool, request(upstream.port).upstream
        lent = await pool.open(site)
        async with asyncio.TaskGroup() as tasks, asyncio.timeout(30):
            waiting = tasks.create_task(pool.open(site))
            await settled(client, 1)
            if granted == "a place":
                lent.abort()
                pool.forget(lent)
            else:
                pool.give_back(lent)
            waiting.cancel()

            assert (await pool.open(site)).is_usable()
        assert waiting.cancelled()
        assert pool._open == 1


async def test_a_failed_connection_gives_its_place_back():
    port, limits = free_port(), ClientLimits(max_connections=1)
    async with RawUpstream(replying(OK)) as upstream, opened(LeanClient, limits) as client:
        for _ in range(3):
            with pytest.raises(UpstreamUnavailableError) as caught:
                await client.send(request(port))
            assert (caught.value.phase, caught.value.sent) == (Phase.CONNECT, False)

        assert await read_all(await client.send(request(upstream.port))) == b"ok"


async def test_a_name_that_points_elsewhere_is_followed(monkeypatch):
    answers = {"up.test": "127.0.0.1"}
    real = socket.getaddrinfo

    def look_up(host, *args, **kwargs):
        return real(answers.get(host, host), *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    limits = ClientLimits(max_age_s=0)
    async with RawUpstream(replying(OK)) as here, opened(LeanClient, limits) as client:
        client._pool._dialer._addresses._remembered_s = 0

        async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK.replace(b"ok", b"KO"))
            writer.close()

        there = await asyncio.start_server(elsewhere, "127.0.0.2", here.port)
        async with there:
            heard = []
            for address in ("127.0.0.1", "127.0.0.2", "127.0.0.1"):
                answers["up.test"] = address
                answer = await client.send(request(here.port, host="up.test"))
                heard.append(await read_all(answer))

    assert heard == [b"ok", b"KO", b"ok"]


async def test_a_free_connection_is_let_go_after_a_while():
    async def script(connection):
        await connection.request()
        await connection.send(OK)
        await connection.wait_closed_by_peer()

    limits = ClientLimits(keepalive_s=0.02)
    async with RawUpstream(script) as upstream, opened(LeanClient, limits) as client:
        await read_all(await client.send(request(upstream.port)))

        await wait_until(upstream.connections[0].closed.is_set, "the goodbye")
        await wait_until(lambda: client._pool._timer is None, "the timer to rest")


async def test_draining_keeps_no_connection_and_ends_no_call():
    async with slow("a") as stage, opened(LeanClient) as client:
        stage.go.release()
        await read_all(await client.send(request(stage.ports["a"])))
        async with asyncio.TaskGroup() as tasks:
            calls(tasks, client, stage, "a", "a")
            await wait_until(lambda: len(stage.order) == 3, "two calls upstream")

            client.drain()

            for _ in range(2):
                stage.go.release()
        await wait_until(lambda: not client._pool._all, "all connections to be gone")


async def test_a_closed_client_leaves_no_connection_behind():
    async with slow("a") as stage, opened(LeanClient) as client:
        failed = asyncio.Event()

        async def call() -> None:
            with pytest.raises(UpstreamUnavailableError):
                await client.send(request(stage.ports["a"]))
            failed.set()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(call())
            await wait_until(lambda: stage.order, "the call upstream")
            await client.aclose()

        assert failed.is_set()
        assert not client._pool._all
