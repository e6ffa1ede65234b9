"""What is answered to bytes that are no call, when a handler has a bug, and to the slow."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from proxy.reading import READ_AT_MOST
from proxy.web.entrance.server import CallerBounds, DataServer
from tests.helpers.raw_upstream import RawCaller, wait_until
from tests.web.stage import stalled

SECRET = b"sk-canary-of-the-caller"


@asynccontextmanager
async def listening(
    handle: Any, bounds: CallerBounds | None = None, **options: Any
) -> AsyncIterator[tuple[int, DataServer]]:
    server = DataServer(handle, bounds, **options)
    runner = web.ServerRunner(server, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1], server
    finally:
        await runner.cleanup()


@asynccontextmanager
async def serving(
    handle: Any, bounds: CallerBounds | None = None, **options: Any
) -> AsyncIterator[int]:
    async with listening(handle, bounds, **options) as (port, _):
        yield port


async def hello(request: web.BaseRequest) -> web.Response:
    return web.Response(text="hello")


async def buggy(request: web.BaseRequest) -> web.Response:
    raise AssertionError("a bug, at the secret place")


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + SECRET + b"\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nAuthorization Bearer " + SECRET + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: " + SECRET + b"\r\n\r\n",
        SECRET + b" / HTTP/9\r\n\r\n",
    ],
)
async def test_bytes_that_are_no_call_are_not_quoted(sent, caplog):
    async with serving(hello) as port, RawCaller(port) as caller:
        await caller.send(sent)
        answer = await caller.response()

    assert answer.start_line.endswith(b"400 Bad Request")
    assert json.loads(answer.body)["error"]["code"] == "bad_request"
    assert SECRET not in answer.head + answer.body
    assert SECRET.decode() not in caplog.text


@pytest.mark.parametrize(
    ("head", "told"),
    [(b"post / HTTP/1.1", True), (b"Get / HTTP/1.1", True), (b"GET / HTTP/9", False)],
)
async def test_a_method_in_small_letters_is_told_so(head, told):
    async with serving(hello) as port, RawCaller(port) as caller:
        await caller.send(head + b"\r\nHost: x\r\n\r\n")
        answer = await caller.response()

    assert answer.start_line.endswith(b"400 Bad Request")
    message = json.loads(answer.body)["error"]["message"]
    assert ("known method in capital letters, such as POST" in message) is told


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"x" * 2000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nBaggage: " + b"x" * 2000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 20 + b"\r\n",
    ],
    ids=["target", "field", "fields"],
)
async def test_a_head_that_is_too_long_is_told_so(sent):
    bounds = CallerBounds(max_field_bytes=1024, max_fields=16)
    async with serving(hello, bounds) as port, RawCaller(port) as caller:
        await caller.send(sent)
        answer = await caller.response()

    assert answer.start_line.split()[1] == b"431"
    assert b"callers.max_field_bytes" in answer.body


async def test_a_bug_is_told_in_a_form_that_sdks_read_and_logged_with_its_place(caplog):
    with caplog.at_level(logging.ERROR):
        async with serving(buggy) as port, RawCaller(port) as caller:
            await caller.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = await caller.response()

    assert answer.start_line.endswith(b"500 Internal Server Error")
    assert json.loads(answer.body)["error"]["code"] == "internal_error"
    assert b"secret place" not in answer.body
    assert "secret place" in caplog.text


async def test_calls_are_served_as_ever():
    async with serving(hello) as port, RawCaller(port) as caller:
        for _ in range(2):
            await caller.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await caller.response()).body == b"hello"


async def test_all_calls_are_answered_that_come_behind_a_body():
    begun = asyncio.Event()

    async def reading(request: web.BaseRequest) -> web.Response:
        begun.set()
        return web.Response(body=await request.read())

    async with serving(reading) as port, RawCaller(port) as caller:
        await caller.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab")
        await begun.wait()
        # More than aiohttp lets wait.
        await caller.send(b"cd" + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 100)

        assert (await caller.response()).body == b"abcd"
        for _ in range(100):
            assert (await caller.response()).body == b""


@pytest.mark.parametrize(
    ("handle", "sent"),
    [
        (hello, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        (buggy, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        (hello, b"nonsense\r\n\r\n"),
        # Of a connection that is one too many nothing is awaited.
        (hello, b""),
    ],
)
async def test_answers_of_ours_say_when_they_were_made_and_not_by_what(handle, sent):
    bounds = CallerBounds(max_connections=1 if sent else 0)
    async with serving(handle, bounds) as port, RawCaller(port) as caller:
        if sent:
            await caller.send(sent)
        answer = await caller.response()

    assert answer.value(b"Server") is None
    assert (answer.value(b"Date") or b"").endswith(b" GMT")


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_an_answer_to_a_call_whose_body_is_to_come_is_the_last(version):
    head = b"POST / HTTP/%b\r\nHost: x\r\nConnection: keep-alive\r\nContent-Length: 9\r\n\r\n"
    async with serving(hello) as port, RawCaller(port) as caller:
        await caller.send(head % version)
        answer = await caller.response()
        # Read as the body, it must not leave a rest that is a call.
        await caller.send(b"123456789GET / HTTP/1.1\r\nHost: x\r\n\r\n")

        assert (answer.body, answer.value(b"connection")) == (b"hello", b"close")
        assert await caller.reader.read() == b""


@pytest.mark.parametrize("beginning", [b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n"])
async def test_a_connection_without_a_whole_head_is_ended_in_the_end(beginning):
    async with serving(hello, CallerBounds(head_s=0.2)) as port, RawCaller(port) as caller:
        await caller.send(beginning)

        assert await caller.reader.read() == b""


async def test_a_head_that_comes_letter_by_letter_gains_no_time_by_it():
    async with listening(hello) as (port, server), RawCaller(port) as caller:
        connection = await only_connection(server)
        begun = asyncio.get_running_loop().time()
        await caller.send(b"GET / HTTP/1.1\r\nHost: x\r\nA: ")
        assert not connection.is_overdue(begun + 59, 60)
        await caller.send(b"a")

        assert connection.is_overdue(begun + 61, 60)


async def test_each_call_gives_its_connection_the_whole_time_again():
    async with listening(hello) as (port, server), RawCaller(port) as caller:
        connection = await only_connection(server)
        begun = asyncio.get_running_loop().time()
        await caller.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await caller.response()).body == b"hello"

        assert not connection.is_overdue(begun + 61, 60)
        assert not connection.is_overdue(begun + 61 + 59, 60)
        assert connection.is_overdue(begun + 61 + 61, 60)


async def test_a_call_may_take_longer_than_its_head_might():
    served, done = asyncio.Event(), asyncio.Event()

    async def slow(request: web.BaseRequest) -> web.Response:
        served.set()
        await done.wait()
        return web.Response(text="late")

    async with listening(slow) as (port, server), RawCaller(port) as caller:
        connection = await only_connection(server)
        begun = asyncio.get_running_loop().time()
        await caller.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await served.wait()
        assert not connection.is_overdue(begun + 1000, 60)
        assert not connection.is_overdue(begun + 2000, 60)
        done.set()

        assert (await caller.response()).body == b"late"


async def test_what_outlasts_the_end_of_the_server_is_cut_while_its_connection_stands():
    begun, standing = asyncio.Event(), []

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"\n")
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            standing.append(request.transport is not None)
        return response

    async with AsyncExitStack() as stack:
        async with serving(endless) as port:
            caller = await stack.enter_async_context(RawCaller(port))
            await caller.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await begun.wait()

        # Whatever is noted of a call is noted before its connection breaks.
        assert standing == [True]
        assert not (await caller.response()).complete


async def test_a_body_that_comes_while_the_server_ends_is_still_read():
    begun = asyncio.Event()

    async def reading(request: web.BaseRequest) -> web.Response:
        begun.set()
        return web.Response(body=await request.read())

    async with listening(reading) as (port, server), RawCaller(port) as caller:
        await caller.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab")
        await begun.wait()
        server.pre_shutdown()
        await caller.send(b"cd")

        assert (await caller.response()).body == b"abcd"


async def test_an_answer_tells_that_the_server_ends():
    begun, go = asyncio.Event(), asyncio.Event()

    async def later(request: web.BaseRequest) -> web.Response:
        begun.set()
        await go.wait()
        return web.Response(body=b"here")

    async with listening(later) as (port, server), RawCaller(port) as caller:
        await caller.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await begun.wait()
        server.pre_shutdown()
        go.set()

        answer = await caller.response()
        assert (answer.body, answer.value(b"connection")) == (b"here", b"close")
        assert await caller.reader.read() == b""


async def test_a_body_is_read_also_if_the_server_ends_before_its_call_is_begun():
    async def reading(request: web.BaseRequest) -> web.Response:
        return web.Response(body=await request.read())

    async with listening(reading) as (port, server), RawCaller(port) as caller:
        connection = await only_connection(server)
        await caller.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await caller.response()
        # All in one turn of the loop, in which no task goes on.
        connection.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab")
        server.pre_shutdown()
        connection.data_received(b"cd")

        assert (await caller.response()).body == b"abcd"


async def test_little_is_read_at_once():
    # Much would come at once only over a network that is faster than this one's first reads.
    async with listening(hello) as (_, server):
        protocol = server()

        assert isinstance(protocol, asyncio.BufferedProtocol)
        assert memoryview(protocol.get_buffer(-1)).nbytes == READ_AT_MOST


async def test_of_a_body_that_nobody_reads_little_is_taken():
    begun = asyncio.Event()

    async def deaf(request: web.BaseRequest) -> web.Response:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with listening(deaf) as (port, server), RawCaller(port) as caller:
        await caller.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n")
        await begun.wait()
        connection = await only_connection(server)
        caller.writer.write(b"x" * (1 << 22))
        await wait_until(lambda: connection._reading_paused, "the caller to be held back")

        assert connection._newest_body().total_bytes <= 2 * READ_AT_MOST


async def flood(request: web.BaseRequest) -> web.StreamResponse:
    """Answer more than any caller's kernel holds."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x" * 65536)


async def test_a_caller_has_the_whole_time_again_by_all_that_it_takes():
    async with listening(flood) as (port, server), RawCaller(port) as caller:
        connection = await only_connection(server)
        begun = asyncio.get_running_loop().time()
        caller.pause_reading()
        await caller.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await stalled(connection.transport.get_write_buffer_size)
        assert not connection.takes_nothing(begun + 59, 60)
        assert not connection.takes_nothing(begun + 118, 60)
        assert connection.takes_nothing(begun + 120, 60)

        waiting = connection.transport.get_write_buffer_size()
        caller.resume_reading()
        await wait_until(
            lambda: connection.transport.get_write_buffer_size() != waiting, "it to take some"
        )
        assert not connection.takes_nothing(begun + 121, 60)


async def test_a_caller_who_takes_little_is_not_one_who_takes_nothing():
    loop = asyncio.get_running_loop()
    with socket.socket() as slow:
        slow.setblocking(False)
        # What it takes is told at once, in small portions.
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        async with listening(flood) as (port, server):
            await loop.sock_connect(slow, ("127.0.0.1", port))
            connection = await only_connection(server)
            begun = loop.time()
            await loop.sock_sendall(slow, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await stalled(connection.transport.get_write_buffer_size)
            assert not connection.takes_nothing(begun, 60)
            for _ in range(4):
                await loop.sock_recv(slow, 1 << 16)

            # The system holds megabytes yet, and asks us for no more meanwhile.
            await wait_until(lambda: not connection.takes_nothing(begun + 61, 60), "its progress")


@pytest.mark.parametrize("closes", [False, True])
async def test_a_caller_who_takes_nothing_is_let_go_in_the_end(closes):
    ended = asyncio.Event()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        try:
            if closes:
                # What is closed would first send what nobody takes.
                assert request.transport is not None
                request.transport.write(b"x" * 40_000_000)
                request.protocol.force_close()
            return await flood(request)
        finally:
            ended.set()

    bounds = CallerBounds(take_s=0.2)
    async with listening(handle, bounds) as (port, server), RawCaller(port) as caller:
        caller.pause_reading()
        await caller.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

        await ended.wait()
        await wait_until(lambda: not server.connections, "the connection to be gone")


async def only_connection(server: DataServer) -> Any:
    await wait_until(lambda: server.connections, "the connection")
    (connection,) = server.connections
    return connection


async def test_one_connection_too_many_is_told_so_and_the_others_stay():
    refused: list[bool] = []
    bounds = CallerBounds(max_connections=2)
    async with (
        serving(hello, bounds, on_refused=lambda: refused.append(True)) as port,
        RawCaller(port) as one,
        RawCaller(port) as two,
    ):
        for caller in (one, two):
            await caller.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await caller.response()).body == b"hello"
        async with RawCaller(port) as three:
            answer = await three.response()
        await one.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await one.response()).body == b"hello"

    assert answer.start_line == b"HTTP/1.1 503 Service Unavailable"
    assert json.loads(answer.body)["error"]["code"] == "too_many_connections"
    assert refused == [True]
