"""Calls that take the shortcut; that they are relayed like others, `transparency` shows."""

import asyncio
from contextlib import AbstractAsyncContextManager

from openai import AsyncOpenAI

from proxy.web.forwarding.relay import Outcome
from tests.helpers.raw_upstream import (
    RawConnection,
    RawUpstream,
    Script,
    replying,
    wait_until,
)
from tests.web.house import COMPLETION, KEY
from tests.web.stage import OK, Stage, one_record, silent
from tests.web.stage import stage as stage_with
from tests.web.transparency.harness import RunningProxy, running_proxy, short_client

HEAD = b"POST /up/v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"
BODY = b'{"a": "b"}'
GET = b"GET /up/v1/x HTTP/1.1\r\nHost: a\r\n\r\n"


def stage(script: Script) -> AbstractAsyncContextManager[Stage]:
    return stage_with(script, short_client)


async def test_a_call_takes_it_and_the_next_one_on_its_connection():
    async with stage(replying(OK)) as (upstream, proxy, caller):
        for _ in range(3):
            await caller.send(HEAD + BODY)
            assert (await caller.response()).body == b"ok"

        assert proxy.usual == []
        assert len(upstream.connections) == 1
        assert [one.outcome for one in proxy.done] == [Outcome.COMPLETED] * 3
        assert [one.bytes_up for one in proxy.done] == [10] * 3


async def test_a_stock_sdk_takes_it():
    reply = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    async with (
        RawUpstream(replying(reply % (len(COMPLETION), COMPLETION))) as upstream,
        running_proxy(upstream.port, short_client) as proxy,
        AsyncOpenAI(base_url=f"http://127.0.0.1:{proxy.port}/up/v1", api_key=KEY) as client,
    ):
        for number in range(3):
            answer = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": f"call {number}" * number}]
            )
            assert answer.choices[0].message.content == "hi"

        assert proxy.usual == []
        assert len(proxy.done) == 3


async def test_others_on_its_connection_take_the_usual_path_and_it_again():
    async with stage(replying(OK)) as (_, proxy, caller):
        for call in (HEAD + BODY, GET, HEAD + BODY, GET, HEAD + BODY):
            await caller.send(call)
            assert (await caller.response()).body == b"ok"

        assert proxy.usual == ["/up/v1/x"] * 2


async def test_a_body_that_comes_in_pieces_is_awaited():
    async with stage(replying(OK)) as (upstream, proxy, caller):
        connection = await _connection(proxy)
        await caller.send(HEAD)
        await wait_until(lambda: connection._unsent, "the head")
        await caller.send(BODY[:4])
        await wait_until(lambda: len(connection._unsent) == len(HEAD) + 4, "half the body")
        assert upstream.requests == []
        await caller.send(BODY[4:])

        assert (await caller.response()).body == b"ok"
        assert proxy.usual == []


async def test_a_slow_body_takes_the_usual_path():
    async with stage(replying(OK)) as (_, proxy, caller):
        connection = await _connection(proxy)
        await caller.send(HEAD + BODY[:4])
        await wait_until(lambda: connection._unsent, "half the call")
        connection.stop_awaiting()
        await caller.send(BODY[4:])

        assert (await caller.response()).body == b"ok"
        assert proxy.usual == ["/up/v1/x"]


async def test_calls_that_come_before_the_answer_are_answered_in_order():
    go = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        for number in range(9):
            await connection.request()
            await go.wait()
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)

    async with stage(script) as (upstream, proxy, caller):
        await caller.send(HEAD + BODY)
        await wait_until(lambda: upstream.requests, "the first call")
        await caller.send(HEAD + BODY + GET, HEAD[:30])
        await asyncio.sleep(0)
        await caller.send(HEAD[30:] + BODY)
        go.set()

        answers = [(await caller.response()).body for _ in range(4)]
        assert answers == [b"0", b"1", b"2", b"3"]
        assert len(proxy.usual) == 3


async def test_a_body_that_reads_like_a_call_is_none():
    inner = HEAD + BODY
    outer = b"PUT /up/v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(inner)
    async with stage(replying(OK)) as (upstream, proxy, caller):
        await caller.send(outer)
        await wait_until(lambda: proxy.usual, "the head")
        await caller.send(inner)

        assert (await caller.response()).body == b"ok"
        await caller.send(GET)
        await caller.response()
        assert [one.start_line[:4] for one in upstream.requests] == [b"PUT ", b"GET "]


async def test_a_body_that_nobody_read_is_not_taken_for_a_call():
    inner = HEAD + BODY
    outer = b"PUT nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(inner)
    async with stage(replying(OK)) as (upstream, _, caller):
        await caller.send(outer)
        assert b"400" in (await caller.response()).start_line
        await caller.send(inner)
        await caller.reader.read()

        assert upstream.requests == []


async def test_half_a_head_and_a_whole_call_are_not_taken_for_a_call():
    async with stage(replying(OK)) as (upstream, proxy, caller):
        connection = await _connection(proxy)
        await caller.send(b"PUT /up/v1/y HTTP/1.1\r\nX: ")
        await wait_until(lambda: not connection._boundary.is_plain, "half a head")
        await caller.send(HEAD + BODY)
        await caller.response()

        assert [one.start_line for one in upstream.requests] == [b"PUT /v1/y HTTP/1.1"]


async def test_a_caller_who_leaves_cuts_its_call():
    async with stage(silent) as (upstream, proxy, caller):
        await caller.send(HEAD + BODY)
        await wait_until(lambda: upstream.requests, "the call")
        caller.writer.close()

        await wait_until(upstream.connections[0].closed.is_set, "the upstream to be hung up on")
        assert (await one_record(proxy)).outcome is Outcome.CALLER_LEFT


async def test_the_end_waits_for_the_call_that_is_on_its_way():
    go = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await go.wait()
        await connection.send(OK)

    async with stage(script) as (upstream, proxy, caller):
        await caller.send(HEAD + BODY)
        await wait_until(lambda: upstream.requests, "the call")
        proxy.server.pre_shutdown()
        async with asyncio.TaskGroup() as tasks:
            ended = tasks.create_task(proxy.server.shutdown(30))
            await asyncio.sleep(0)
            assert not ended.done()
            go.set()

            assert (await caller.response()).body == b"ok"
            assert await caller.reader.read() == b""


async def test_the_end_cuts_a_call_that_takes_too_long():
    async with stage(silent) as (upstream, proxy, caller):
        await caller.send(HEAD + BODY)
        await wait_until(lambda: upstream.requests, "the call")
        proxy.server.pre_shutdown()
        await proxy.server.shutdown(0.01)

        assert await caller.reader.read() == b""
        assert (await one_record(proxy)).outcome is Outcome.CALLER_LEFT


async def test_a_connection_is_not_idle_while_its_call_is_on_its_way():
    async with stage(silent) as (upstream, proxy, caller):
        connection = await _connection(proxy)
        await caller.send(HEAD + BODY)
        await wait_until(lambda: upstream.requests, "the call")
        now = asyncio.get_running_loop().time()

        assert not connection.is_overdue(now + 1000, 60)
        assert not connection.is_overdue(now + 2000, 60)


async def test_each_call_gives_its_connection_the_whole_time_again():
    async with stage(replying(OK)) as (_, proxy, caller):
        connection = await _connection(proxy)
        begun = asyncio.get_running_loop().time()
        assert not connection.is_overdue(begun + 59, 60)
        await caller.send(HEAD + BODY)
        await caller.response()

        assert not connection.is_overdue(begun + 118, 60)
        assert connection.is_overdue(begun + 179, 60)
        assert proxy.usual == []


async def _connection(proxy: RunningProxy):
    await wait_until(lambda: proxy.server.connections, "the connection")
    (connection,) = proxy.server.connections
    return connection
