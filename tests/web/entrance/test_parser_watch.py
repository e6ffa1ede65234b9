"""What aiohttp's parser keeps to itself is bounded, told to whoever waits, and not lost unseen."""

import asyncio
from contextlib import suppress

import pytest
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser

from proxy.web.entrance.parser_watch import Finding, ParserWatch
from proxy.web.entrance.server import CallerBounds
from tests.helpers.raw_upstream import RawCaller, RawUpstream, replying, wait_until
from tests.web.entrance.test_server import hello, listening, serving
from tests.web.transparency.corpus import OK
from tests.web.transparency.harness import CLIENTS, running_proxy

BOUNDS = CallerBounds(max_field_bytes=1024)
HEAD = b"POST /up/v1/x HTTP/1.1\r\nHost: a\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
FIELD = b"X-%d: " + b"x" * 1000 + b"\r\n"
FIELDS = b"".join(FIELD % number for number in range(100))
GET = b"GET /up/v1/%b HTTP/1.1\r\nHost: a\r\n\r\n"


async def echo(request: web.BaseRequest) -> web.Response:
    return web.Response(body=str(len(await request.read())))


@pytest.mark.parametrize("find", [None, lambda _: None])
async def test_a_head_of_too_many_long_fields_is_refused_before_it_ends(find):
    async with serving(hello, BOUNDS, find=find) as port, RawCaller(port) as caller:
        # Fewer than may be, and none too long.
        await caller.send(HEAD, FIELDS)
        answer = await caller.response()

        assert answer.start_line.split()[1] == b"431"
        # What is unread of it is answered by the kernel.
        with suppress(ConnectionResetError):
            assert await caller.reader.read() == b""


async def test_trailers_may_be_no_longer_than_a_head():
    async with listening(echo, BOUNDS) as (port, server), RawCaller(port) as caller:
        await caller.send(CHUNKED + b"1\r\na\r\n0\r\n")
        await wait_until(lambda: server.requests_count, "the call")
        await caller.send(FIELDS)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await caller.response()


@pytest.mark.parametrize("first", [b"", b"Connection: Upgrade\r\nUpgrade: websocket\r\n"])
async def test_a_body_is_no_head_however_long_it_is(first):
    piece = b"400\r\n" + b"x" * 1024 + b"\r\n"
    async with serving(echo, BOUNDS) as port, RawCaller(port) as caller:
        for more in (first, b""):
            await caller.send(HEAD + more + b"\r\n" + CHUNKED)
            await caller.send(*(piece for _ in range(100)))
            await caller.send(b"0\r\nX: y\r\n\r\n")

            assert (await caller.response()).body == b"0"
            assert (await caller.response()).body == b"102400"


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("malformed", [b"zz\r\n", b"3\r\nabcd\r\n", b"0\r\nX y\r\n\r\n"])
async def test_whoever_reads_a_body_learns_that_it_is_malformed(client, malformed):
    """And not by the time it may pause, for which it would hold a connection to the upstream."""
    async with (
        RawUpstream(replying(OK)) as upstream,
        running_proxy(upstream.port, CLIENTS[client]) as proxy,
        RawCaller(proxy.port) as caller,
    ):
        await caller.send(CHUNKED + b"2\r\nok\r\n")
        await wait_until(lambda: proxy.usual, "the call")
        await caller.send(malformed)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await caller.response()
        await wait_until(lambda: proxy.done, "its end")

        # An upload that was cut is no whole call to anybody.
        assert not any(one.complete for one in upstream.requests)


async def test_a_body_that_is_malformed_after_its_answer_is_not_answered_again(caplog):
    async with serving(hello) as port, RawCaller(port) as caller:
        await caller.send(CHUNKED + b"2\r\nok\r\n")
        answer = await caller.response()
        await caller.send(b"zz\r\n")

        assert answer.body == b"hello"
        assert await caller.reader.read() == b""
        assert not caplog.records


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"", b""),
        (b"Content-Length: 3\r\n", b"abc"),
        (b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    ],
)
async def test_who_asks_for_another_protocol_is_not_left_waiting_for_what_came_behind(
    client, framing, body
):
    asking = HEAD + framing + b"Connection: Upgrade\r\nUpgrade: foo\r\n\r\n" + body
    async with (
        RawUpstream(replying(OK)) as upstream,
        running_proxy(upstream.port, CLIENTS[client]) as proxy,
        RawCaller(proxy.port) as caller,
        RawCaller(proxy.port) as patient,
    ):
        await caller.send(asking + GET % b"2")

        assert (await caller.response()).body == b"ok"
        # aiohttp's parser has forgotten it: its caller learns that it is to be sent again.
        assert await caller.reader.read() == b""

        # One that waits for its answer goes on.
        for _ in range(2):
            await patient.send(asking)
            assert (await patient.response()).body == b"ok"
            await patient.send(GET % b"2")
            assert (await patient.response()).body == b"ok"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
async def test_chunks_of_one_who_offers_another_protocol_end_no_connection(size):
    """Java's client offers HTTP/2 with each call, and buys no call again that met with an end."""
    offer = b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n"
    call = HEAD + offer + b"3\r\nabc\r\n0\r\n\r\n"
    async with serving(echo) as port, RawCaller(port) as caller:
        for _ in range(3):
            await caller.send(*(call[at : at + size] for at in range(0, len(call), size)))

            assert (await caller.response()).body == b"3"


async def test_a_switch_that_was_declined_before_its_call_was_all_here_ends_the_connection():
    async with serving(hello, CallerBounds(head_s=30)) as port, RawCaller(port) as caller:
        switch = b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\n"
        await caller.send(HEAD + switch)
        answer = await caller.response()
        await caller.send(b"abc" + GET % b"2")

        assert answer.body == b"hello"
        assert await caller.reader.read() == b""


async def test_a_call_for_a_switch_that_has_only_just_come_is_served():
    """The sweep may run in the same turn of the loop, before aiohttp's task wakes."""
    async with listening(hello) as (port, server), RawCaller(port) as caller:
        await caller.send(GET % b"1")
        await caller.response()
        [connection] = server.connections
        connection.data_received(HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        server._sweep()
        answer = await caller.response()

    assert answer.body == b"hello"


async def test_after_a_switch_that_was_declined_all_is_as_before():
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(BaseProtocol(loop), loop, 1 << 16)
    watch = ParserWatch(1024)

    def fed(data: bytes) -> Finding:
        watch.before(None)
        came, kept, _ = parser.feed_data(data)
        return watch.after(data, len(came), came[-1] if came else None, kept=kept)

    switch = b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\n"
    for _ in range(2):
        assert fed(HEAD + switch) is Finding.FINE
        assert fed(b"abc") is Finding.FINE
        parser.set_upgraded(False)

        assert fed(GET[:9]) is Finding.FINE
        assert fed(GET[9:] % b"2") is Finding.FINE
