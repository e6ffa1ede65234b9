"""The relay when something takes too long, or waits for a word."""

import asyncio
import json
import socket

import pytest

from proxy.ports.upstream import ClientLimits, Phase
from tests.helpers.raw_upstream import RawCaller, read_head, replying, wait_until
from tests.web.stage import CHUNKED_HEAD, GET, MIB, OK, POST, failure, one_record, silent, stage
from tests.web.transparency.harness import running_proxy

# Timeouts. Each limit under test is tiny, the others are out of reach.


async def test_no_connection_in_time_is_a_504(factory):
    with socket.socket() as full:
        # One connection fills the queue of a listener that never accepts; the
        # kernel drops the next ones.
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            async with (
                running_proxy(port, factory, limits=ClientLimits(connect_s=0.05)) as proxy,
                RawCaller(proxy.port) as caller,
            ):
                await caller.send(POST)

                assert (await caller.response()).start_line.startswith(b"HTTP/1.1 504")
                record = await one_record(proxy)
                assert (failure(record).phase, failure(record).sent) == (Phase.CONNECT, False)


async def test_no_answer_in_time_is_a_504_and_ends_the_upstream_call(factory):
    limits = ClientLimits(first_byte_s=0.05)
    async with stage(silent, factory, limits=limits) as (upstream, proxy, caller):
        await caller.send(POST)

        answer = await caller.response()

        assert answer.start_line.startswith(b"HTTP/1.1 504")
        assert json.loads(answer.body)["error"]["code"] == "upstream_timeout"
        await wait_until(upstream.connections[0].closed.is_set, "the upstream to be hung up on")
        assert failure(await one_record(proxy)).phase is Phase.FIRST_BYTE


async def test_informational_answers_do_not_end_the_wait_for_the_answer(factory):
    async def script(connection):
        await connection.request()
        await connection.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        await connection.wait_closed_by_peer()

    limits = ClientLimits(first_byte_s=0.05)
    async with stage(script, factory, limits=limits) as (_, _, caller):
        await caller.send(POST)

        assert (await caller.response()).start_line == b"HTTP/1.1 102 Processing"
        assert (await caller.response()).start_line.startswith(b"HTTP/1.1 504")


async def test_a_stream_that_falls_silent_is_cut(factory):
    async def script(connection):
        await connection.request()
        await connection.send(CHUNKED_HEAD, b"3\r\nabc\r\n")
        await connection.wait_closed_by_peer()

    async with stage(script, factory, limits=ClientLimits(idle_s=0.05)) as (_, proxy, caller):
        await caller.send(POST)

        answer = await caller.response()

        assert (answer.body, answer.complete) == (b"abc", False)
        record = await one_record(proxy)
        assert (failure(record).phase, failure(record).cause) == (Phase.IDLE, "timeout")


async def test_an_upload_that_is_not_taken_is_a_504(factory):
    async def script(connection):
        connection.pause_reading()
        await wait_until(connection.writer.transport.is_closing, "the end")

    limits = ClientLimits(idle_s=0.05)
    async with stage(script, factory, limits=limits) as (upstream, proxy, caller):
        total = 64 * MIB
        head = b"POST /up/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % total
        caller.writer.write(head + b"x" * total)

        assert (await caller.response()).start_line.startswith(b"HTTP/1.1 504")
        assert failure(await one_record(proxy)).phase is Phase.UPLOAD
        upstream.connections[0].writer.transport.abort()


async def test_a_slow_reader_is_no_silent_upstream(factory):
    total = 32 * MIB

    async def script(connection):
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        await connection.send(b"x" * total)

    async with stage(script, factory, limits=ClientLimits(idle_s=0.3)) as (_, _, caller):
        caller.pause_reading()
        await caller.send(GET)
        # Longer than the limit: what is measured is the upstream, and it waits for us.
        await asyncio.sleep(0.7)
        caller.resume_reading()

        assert len((await caller.response()).body) == total


# Expect: 100-continue.

EXPECTING = b"POST /up/x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"


async def test_the_upstream_decides_whether_a_body_is_wanted(factory):
    async def script(connection):
        head = await read_head(connection.reader)
        assert b"Expect: 100-continue\r\n" in head
        await connection.send(b"HTTP/1.1 100 Continue\r\nX-A: 1\r\n\r\n")
        assert await connection.reader.readexactly(3) == b"abc"
        await connection.send(OK)

    async with stage(script, factory) as (_, _, caller):
        await caller.send(EXPECTING)
        first = await caller.response()
        assert first.head == b"HTTP/1.1 100 Continue\r\nX-A: 1\r\n\r\n"

        await caller.send(b"abc")

        assert (await caller.response()).body == b"ok"


async def test_a_body_that_is_not_wanted_is_never_asked_for(factory):
    async def script(connection):
        await read_head(connection.reader)
        await connection.send(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno")
        assert await connection.wait_closed_by_peer() == b""

    async with stage(script, factory) as (upstream, _, caller):
        await caller.send(EXPECTING)

        assert (await caller.response()).start_line == b"HTTP/1.1 401 No"
        await wait_until(upstream.connections[0].closed.is_set, "the upstream to be hung up on")


async def test_no_call_follows_one_that_is_answered_before_its_body_is_here(factory):
    async def script(connection):
        await read_head(connection.reader)
        await connection.send(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno")
        await connection.wait_closed_by_peer()

    async with stage(script, factory) as (upstream, _, caller):
        await caller.send(EXPECTING)
        answer = await caller.response()
        # A caller that was answered instead of told to go on need not send the body.
        await caller.send(GET)

        assert answer.value(b"connection") == b"close"
        assert await caller.reader.read() == b""
        assert len(upstream.connections) == 1


async def test_an_upstream_that_knows_no_continue_gets_the_body_after_a_while(factory):
    limits = ClientLimits(continue_s=0.01)
    async with stage(replying(OK), factory, limits=limits) as (upstream, _, caller):
        await caller.send(EXPECTING)
        assert (await caller.response()).start_line == b"HTTP/1.1 100 Continue"
        await caller.send(b"abc")

        assert (await caller.response()).body == b"ok"
        assert upstream.requests[0].body == b"abc"


@pytest.mark.parametrize(
    "sent",
    [
        # All at once, by a caller who does not wait for the word.
        [EXPECTING + b"abc"],
        [EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0"), b"abc"],
    ],
    ids=["here", "HTTP/1.0"],
)
async def test_a_body_that_waits_for_no_word_is_held_for_none(factory, sent):
    limits = ClientLimits(continue_s=3600)
    async with stage(replying(OK), factory, limits=limits) as (upstream, _, caller):
        for piece in sent:
            await caller.send(piece)
            await asyncio.sleep(0)

        assert (await caller.response()).start_line == b"HTTP/1.1 200 OK"
        assert upstream.requests[0].body == b"abc"
        assert upstream.requests[0].value(b"expect") == b"100-continue"


async def test_the_word_to_go_on_is_passed_once(factory):
    async def script(connection):
        await read_head(connection.reader)
        await connection.reader.readexactly(3)
        # Late: the proxy has already gone on by itself.
        await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)

    limits = ClientLimits(continue_s=0.01)
    async with stage(script, factory, limits=limits) as (_, _, caller):
        await caller.send(EXPECTING)
        assert (await caller.response()).start_line == b"HTTP/1.1 100 Continue"
        await caller.send(b"abc")

        assert (await caller.response()).start_line == b"HTTP/1.1 200 OK"


async def test_who_has_read_a_body_passes_no_second_word_to_send_it(factory):
    async def script(connection):
        await read_head(connection.reader)
        await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await connection.reader.readexactly(3)
        await connection.send(OK)

    async with stage(script, factory, reads=True) as (_, _, caller):
        await caller.send(EXPECTING)
        assert (await caller.response()).start_line == b"HTTP/1.1 100 Continue"
        await caller.send(b"abc")

        assert (await caller.response()).start_line == b"HTTP/1.1 200 OK"
