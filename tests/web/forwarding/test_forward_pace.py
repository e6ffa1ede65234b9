"""The relay at the pace of its slower end: nothing gathered, nothing lost."""

import asyncio
import socket
import struct

import pytest

from proxy.web.forwarding.relay import Outcome
from tests.helpers.raw_upstream import RawCaller, RawUpstream, read_head, replying, wait_until
from tests.web.stage import (
    CHUNKED_HEAD,
    GET,
    HELD_AT_MOST,
    MIB,
    OK,
    POST,
    one_record,
    silent,
    stage,
    stalled,
)
from tests.web.transparency.harness import running_proxy


@pytest.mark.parametrize(
    ("call", "turns_between"), [(GET, 0), (POST, 3)], ids=["in one go", "in small pieces"]
)
async def test_a_slow_reader_holds_the_upstream_back_and_loses_nothing(
    factory, call, turns_between
):
    """Small pieces are read one by one, so that none alone is too much to hold."""
    sent = 0
    total = 40 * MIB

    async def script(connection):
        nonlocal sent
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        while sent < total:
            await connection.send(b"x" * 65536)
            sent += 65536
            for _ in range(turns_between):
                await asyncio.sleep(0)

    async with stage(script, factory) as (_, _, caller):
        caller.pause_reading()
        await caller.send(call)

        await stalled(lambda: sent)
        assert sent < HELD_AT_MOST

        caller.resume_reading()
        assert len((await caller.response()).body) == total


async def test_hints_to_one_who_takes_no_more_fill_no_memory_and_cost_no_answer(factory, caplog):
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: %b\r\n\r\n" % (b"x" * 30000)
    sent, go = asyncio.Event(), asyncio.Event()

    async def script(connection):
        await connection.request()
        for _ in range(40 * MIB // len(hint)):
            await connection.send(hint)
        sent.set()
        await go.wait()
        await connection.send(OK)

    async with stage(script, factory) as (_, proxy, caller):
        caller.pause_reading()
        await caller.send(POST)
        await sent.wait()
        [served] = proxy.server.connections
        await wait_until(lambda: served.writing_paused, "the caller to be full")
        assert served.transport is not None
        assert served.transport.get_write_buffer_size() < MIB

        caller.resume_reading()
        while served.writing_paused:
            assert b" 103 " in (await caller.response()).start_line
        go.set()
        while b" 103 " in (answer := await caller.response()).start_line:
            pass
        assert answer.body == b"ok"
        assert caplog.records == []


async def test_hints_to_one_who_left_in_the_same_turn_of_the_loop_are_not_written(factory, caplog):
    async with RawUpstream(silent) as upstream, running_proxy(upstream.port, factory) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port)) as caller:
            caller.sendall(POST)
            await wait_until(lambda: upstream.requests, "the call")
            [connection] = upstream.connections
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 1000)

        assert (await one_record(proxy)).outcome is Outcome.CALLER_LEFT
        assert caplog.records == []


async def test_a_slow_upstream_holds_an_upload_back_and_gets_all_of_it(factory):
    sent = 0
    total = 40 * MIB
    go = asyncio.Event()

    async def script(connection):
        connection.pause_reading()
        await go.wait()
        connection.resume_reading()
        request = await connection.request()
        await connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n%08d" % len(request.body)
        )

    async def upload(caller: RawCaller) -> None:
        nonlocal sent
        head = b"POST /up/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % total
        await caller.send(head)
        while sent < total:
            await caller.send(b"x" * 65536)
            sent += 65536

    async with stage(script, factory) as (_, _, caller), asyncio.TaskGroup() as tasks:
        tasks.create_task(upload(caller))
        await stalled(lambda: sent)
        assert sent < HELD_AT_MOST

        go.set()
        assert int((await caller.response()).body) == total


async def test_each_piece_of_a_stream_goes_on_before_the_next_one_comes(factory):
    seen = asyncio.Semaphore(0)

    async def script(connection):
        await connection.request()
        await connection.send(CHUNKED_HEAD)
        for piece in (b"data: 1\n\n", b"data: 2\n\n", b"d"):
            await seen.acquire()
            await connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await seen.acquire()
        await connection.send(b"0\r\n\r\n")

    async with stage(script, factory) as (_, _, caller):
        await caller.send(POST)
        # The upstream sends nothing more until the caller has what went before,
        # so anything held back would hang here.
        await caller.reader.readuntil(b"\r\n\r\n")
        for piece in (b"data: 1\n\n\r\n", b"data: 2\n\n\r\n", b"1\r\nd\r\n"):
            seen.release()
            await caller.reader.readuntil(piece)
        seen.release()
        assert await caller.reader.readexactly(5) == b"0\r\n\r\n"


async def test_each_piece_of_an_upload_goes_on_before_the_next_one_comes(factory):
    arrived: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(connection):
        await read_head(connection.reader)
        for _ in range(3):
            arrived.put_nowait(await connection.reader.readexactly(1))
        await connection.send(OK)

    async with stage(script, factory) as (_, _, caller):
        await caller.send(b"POST /up/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n")
        for piece in (b"a", b"b", b"c"):
            await caller.send(piece)
            assert await arrived.get() == piece
        assert (await caller.response()).body == b"ok"


async def test_an_answer_may_come_before_the_upload_ends(factory):
    async def script(connection):
        await read_head(connection.reader)
        await connection.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await connection.wait_closed_by_peer()

    async with stage(script, factory) as (upstream, proxy, caller):
        await caller.send(b"POST /up/x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")

        answer = await caller.response()

        assert (answer.start_line, answer.body) == (b"HTTP/1.1 413 Too Large", b"big")
        # Half a request lies on that connection: it must not be used again.
        await wait_until(upstream.connections[0].closed.is_set, "the upstream to be hung up on")
        assert (await one_record(proxy)).outcome is Outcome.COMPLETED


async def test_a_caller_who_sends_calls_and_reads_no_answer_is_held_back(factory):
    size, calls = 32768, 1500
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    async with stage(replying(answer), factory) as (upstream, _, caller):
        caller.pause_reading()
        caller.writer.write(GET * calls)

        await stalled(lambda: len(upstream.requests))
        assert len(upstream.requests) * size < HELD_AT_MOST

        caller.resume_reading()
        for _ in range(calls):
            assert len((await caller.response()).body) == size
