"""The relay over kept connections, on both of its sides."""

import asyncio

from tests.helpers.raw_upstream import RawConnection, replying, wait_until
from tests.web.stage import CHUNKED_HEAD, GET, OK, POST, stage


async def test_calls_share_a_connection_on_both_sides(factory):
    async with stage(replying(OK), factory) as (upstream, _, caller):
        for _ in range(3):
            await caller.send(POST)
            assert (await caller.response()).body == b"ok"

        assert len(upstream.connections) == 1
        assert len(upstream.requests) == 3


async def test_pipelined_calls_are_answered_in_order(factory):
    async def script(connection):
        while True:
            request = await connection.request()
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + request.body)

    async with stage(script, factory) as (_, _, caller):
        await caller.send(
            b"".join(
                b"POST /up/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n%d" % i
                for i in range(5)
            )
        )

        assert [(await caller.response()).body for _ in range(5)] == [b"%d" % i for i in range(5)]


async def test_a_connection_that_the_upstream_closed_meanwhile_is_not_used(factory):
    hang_up = asyncio.Event()

    async def script(connection):
        await connection.request()
        await connection.send(OK)
        await hang_up.wait()

    async with stage(script, factory) as (upstream, _, caller):
        await caller.send(POST)
        await caller.response()
        hang_up.set()
        await wait_until(upstream.connections[0].writer.is_closing, "the goodbye")

        await caller.send(POST)

        assert (await caller.response()).body == b"ok"
        assert len(upstream.requests) == 2


async def test_unasked_bytes_on_a_kept_connection_answer_nobody(factory):
    speak = asyncio.Event()
    spoken = asyncio.Event()

    async def script(connection):
        await connection.request()
        await connection.send(OK)
        await speak.wait()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        spoken.set()
        await connection.request()
        await connection.send(OK)

    async with stage(script, factory) as (upstream, _, caller):
        await caller.send(POST)
        await caller.response()
        speak.set()
        await spoken.wait()

        await caller.send(POST)

        assert (await caller.response()).body == b"ok"
        assert len(upstream.connections) == 2


async def dies_on_second(connection: RawConnection) -> None:
    await connection.request()
    await connection.send(OK)
    await connection.request()


async def test_a_paid_call_on_a_dying_connection_is_not_sent_twice(factory):
    async with stage(dies_on_second, factory) as (upstream, _, caller):
        await caller.send(POST)
        await caller.response()
        await caller.send(POST)

        assert (await caller.response()).start_line.startswith(b"HTTP/1.1 502")
        assert len(upstream.requests) == 2


async def test_a_plain_get_on_a_dying_connection_is_sent_once_more(factory):
    async with stage(dies_on_second, factory) as (upstream, _, caller):
        await caller.send(GET)
        await caller.response()
        await caller.send(GET)

        assert (await caller.response()).body == b"ok"
        assert len(upstream.requests) == 3


async def test_a_caller_that_wants_to_close_is_told_so_and_the_upstream_is_not(factory):
    async with stage(replying(OK), factory) as (upstream, _, caller):
        await caller.send(b"GET /up/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")

        answer = await caller.response()

        assert answer.value(b"connection") == b"close"
        assert await caller.reader.read() == b""
        assert upstream.requests[0].value(b"connection") is None


async def test_an_old_caller_gets_no_chunks_and_no_informational_answers(factory):
    script = replying(b"HTTP/1.1 103 Early Hints\r\n\r\n", CHUNKED_HEAD, b"3\r\nabc\r\n0\r\n\r\n")
    async with stage(script, factory) as (upstream, _, caller):
        await caller.send(b"GET /up/x HTTP/1.0\r\n\r\n")

        answer = await caller.response()

        assert (answer.framing, answer.body) == ("close", b"abc")
        assert answer.value(b"transfer-encoding") is None
        assert upstream.requests[0].fields[0] == (b"Host", upstream.authority)
