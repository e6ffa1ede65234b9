"""The relay when one of its ends leaves, and what it takes out."""

import asyncio
import gc
import json
from contextlib import suppress

import pytest

from proxy.ports.upstream import Phase
from proxy.web.forwarding.relay import Outcome
from tests.helpers.ports import free_port
from tests.helpers.raw_upstream import RawCaller, read_head, replying, wait_until
from tests.web.stage import (
    CHUNKED_HEAD,
    CLOSE_HEAD,
    GET,
    LENGTH_HEAD,
    OK,
    POST,
    failure,
    one_record,
    silent,
    stage,
)
from tests.web.transparency.harness import running_proxy

# The caller leaves.


async def test_a_caller_who_leaves_before_the_answer_ends_the_upstream_call(factory):
    async with stage(silent, factory) as (upstream, proxy, caller):
        await caller.send(POST)
        await wait_until(lambda: upstream.requests, "the call upstream")

        caller.writer.close()

        await wait_until(upstream.connections[0].closed.is_set, "the upstream to be hung up on")
        record = await one_record(proxy)
        assert record.outcome is Outcome.CALLER_LEFT
        assert record.status is None


async def test_a_caller_who_leaves_within_a_stream_ends_the_upstream_call(factory):
    async def script(connection):
        await connection.request()
        await connection.send(CHUNKED_HEAD, b"3\r\nabc\r\n")
        await connection.wait_closed_by_peer()

    async with stage(script, factory) as (upstream, proxy, caller):
        await caller.send(POST)
        await caller.reader.readuntil(b"abc\r\n")

        caller.writer.transport.abort()

        await wait_until(upstream.connections[0].closed.is_set, "the upstream to be hung up on")
        record = await one_record(proxy)
        assert (record.outcome, record.status, record.bytes_down) == (Outcome.CALLER_LEFT, 200, 3)


async def test_a_caller_who_leaves_within_an_upload_cuts_the_upload(factory):
    begun = asyncio.Event()

    async def script(connection):
        await read_head(connection.reader)
        begun.set()
        await connection.wait_closed_by_peer()

    async with stage(script, factory) as (upstream, proxy, caller):
        await caller.send(b"POST /up/x HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\nabc")
        await begun.wait()

        caller.writer.close()

        await wait_until(upstream.connections[0].closed.is_set, "the upstream to be hung up on")
        assert (await one_record(proxy)).outcome is Outcome.CALLER_LEFT


@pytest.mark.parametrize("then", [b"", b"zz\r\n"], ids=["silence", "nonsense"])
async def test_a_caller_whose_body_does_not_go_on_cuts_the_upload(factory, then):
    begun = asyncio.Event()

    async def script(connection):
        await read_head(connection.reader)
        begun.set()
        rest = await connection.wait_closed_by_peer()
        assert not rest.endswith(b"0\r\n\r\n")

    async with stage(script, factory, upload_idle_s=0.05) as (upstream, proxy, caller):
        head = b"POST /up/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        await caller.send(head + b"3\r\nabc\r\n")
        await begun.wait()

        await caller.send(then)

        await wait_until(upstream.connections[0].closed.is_set, "the upstream to be hung up on")
        assert (await one_record(proxy)).outcome is Outcome.CALLER_LEFT


# The upstream dies.


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize(
    ("start", "arrived"),
    [(CHUNKED_HEAD + b"3\r\nabc\r\n", b"3\r\nabc\r\n"), (LENGTH_HEAD + b"abc", b"abc")],
    ids=["chunked", "length"],
)
async def test_an_answer_that_breaks_off_breaks_off_for_the_caller(factory, start, arrived, reset):
    go = asyncio.Event()

    async def script(connection):
        await connection.request()
        await connection.send(start)
        await go.wait()
        connection.reset() if reset else connection.close()

    async with stage(script, factory) as (_, proxy, caller):
        await caller.send(POST)
        await caller.reader.readuntil(b"abc")
        go.set()

        # What came before is delivered; then the connection ends within the body.
        rest = await caller.reader.read()

        assert rest == arrived.partition(b"abc")[2]
        record = await one_record(proxy)
        assert (record.outcome, record.bytes_down) == (Outcome.BROKEN, 3)
        assert failure(record).phase is Phase.IDLE


async def test_a_reset_is_told_even_where_closing_would_be_a_good_end(factory):
    go = asyncio.Event()

    async def script(connection):
        await connection.request()
        await connection.send(CLOSE_HEAD, b"abc")
        await go.wait()
        connection.reset()

    async with stage(script, factory) as (_, proxy, caller):
        await caller.send(GET)
        await caller.reader.readuntil(b"abc")
        go.set()

        with pytest.raises(ConnectionResetError):
            await caller.reader.read()

        assert (await one_record(proxy)).outcome is Outcome.BROKEN


async def test_an_upstream_that_hangs_up_without_an_answer_is_a_502_and_asked_once(factory):
    async def script(connection):
        await connection.request()

    async with stage(script, factory) as (upstream, proxy, caller):
        await caller.send(POST)
        answer = await caller.response()

        assert answer.start_line == b"HTTP/1.1 502 Bad Gateway"
        assert json.loads(answer.body)["error"]["code"] == "upstream_unavailable"
        assert len(upstream.requests) == 1
        record = await one_record(proxy)
        assert (record.outcome, record.status) == (Outcome.REFUSED, 502)
        assert failure(record).sent


async def test_no_connection_is_a_502_that_says_nothing_was_sent(factory):
    async with running_proxy(free_port(), factory) as proxy, RawCaller(proxy.port) as caller:
        await caller.send(POST)

        assert (await caller.response()).start_line.startswith(b"HTTP/1.1 502")
        record = await one_record(proxy)
        assert (failure(record).phase, failure(record).sent) == (Phase.CONNECT, False)


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000 + b"\r\n\r\n",
    ],
    ids=["no HTTP", "no status", "two lengths", "two framings", "unasked switch", "endless field"],
)
async def test_an_answer_that_is_not_http_is_a_502(factory, garbage):
    async with stage(replying(garbage), factory) as (_, proxy, caller):
        await caller.send(POST)

        assert (await caller.response()).start_line.startswith(b"HTTP/1.1 502")
        assert (await one_record(proxy)).outcome is Outcome.REFUSED


async def test_our_own_error_is_in_the_shape_of_the_upstreams_dialect(factory):
    async def script(connection):
        await connection.request()

    async with stage(script, factory, dialect="anthropic") as (_, _, caller):
        await caller.send(POST)

        assert json.loads((await caller.response()).body)["type"] == "error"


async def test_our_own_error_to_head_has_no_body_and_keeps_the_connection(factory):
    async def script(connection):
        await connection.request()

    async with stage(script, factory) as (_, proxy, caller):
        await caller.send(b"HEAD /up/x HTTP/1.1\r\nHost: a\r\n\r\n" * 2)

        for _ in range(2):
            answer = await caller.response(bodiless=True)
            assert answer.start_line.startswith(b"HTTP/1.1 502")
        await wait_until(lambda: len(proxy.done) == 2, "both records")


# What is taken out, and what is never told.


async def test_a_malformed_call_is_refused_and_its_bytes_are_not_logged(factory, caplog):
    async with stage(replying(OK), factory) as (upstream, _, caller):
        await caller.send(b"GET /up/x HTTP/1.1\r\nHost: a\r\nAuthorization: sk-canary\x00\r\n\r\n")

        assert b" 400 " in (await caller.response()).start_line
        assert not upstream.requests
        assert "sk-canary" not in caplog.text


async def test_only_our_fields_and_those_of_the_connection_are_taken_out(factory):
    async with stage(replying(OK), factory) as (upstream, _, caller):
        await caller.send(
            b"GET /up/x HTTP/1.1\r\nHost: a\r\nX-Deferrable: false\r\nConnection: X-Hop, close\r\n"
            b"x-deferrable-tags: a=b\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n"
            b"Proxy-Authorization: x\r\nPrefer: wait=1\r\nX-Deferred: stays\r\n\r\n"
        )
        await caller.response()

        assert upstream.requests[0].fields == [
            (b"Host", upstream.authority),
            (b"Prefer", b"wait=1"),
            (b"X-Deferred", b"stays"),
        ]


async def test_further_fields_are_taken_out_if_asked_for(factory):
    options = {"without": frozenset({b"prefer", b"idempotency-key"})}
    async with stage(replying(OK), factory, **options) as (upstream, _, caller):
        await caller.send(
            b"GET /up/x HTTP/1.1\r\nHost: a\r\nPREFER: x\r\nIdempotency-Key: k\r\nX-A: 1\r\n\r\n"
        )
        await caller.response()

        assert [name for name, _ in upstream.requests[0].fields] == [b"Host", b"X-A"]


async def test_a_base_path_stands_before_the_raw_target(factory):
    async with stage(replying(OK), factory, base_path="/base") as (upstream, _, caller):
        await caller.send(b"GET /up//x%2F?q HTTP/1.1\r\nHost: a\r\n\r\n")
        await caller.response()

        assert upstream.requests[0].start_line == b"GET /base//x%2F?q HTTP/1.1"


async def test_the_record_counts_what_was_relayed(factory):
    async with stage(replying(OK), factory) as (_, proxy, caller):
        await caller.send(POST)
        await caller.response()

        record = await one_record(proxy)
        assert (record.upstream, record.method, record.status) == ("up", "POST", 200)
        assert (record.outcome, record.bytes_up, record.bytes_down) == (Outcome.COMPLETED, 2, 2)
        assert record.first_byte_s is not None
        assert 0 < record.first_byte_s <= record.duration_s
        assert record.error is None


async def hangs_up(connection):
    await connection.request()


async def breaks_off(connection):
    await connection.request()
    await connection.send(CLOSE_HEAD, b"abc")
    connection.reset()


WHOLE = replying(CHUNKED_HEAD + b"3\r\nabc\r\n0\r\n\r\n")


@pytest.mark.parametrize("script", [WHOLE, hangs_up, breaks_off], ids=["whole", "none", "broken"])
async def test_a_forwarded_call_is_freed_as_it_ends_and_not_by_the_collector(factory, script):
    """Cycles of a thousand calls a second would be the longest pauses of all."""
    async with stage(script, factory) as (_, proxy, _):
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for _ in range(3):
                async with RawCaller(proxy.port) as caller:
                    await caller.send(POST)
                    with suppress(ConnectionResetError):
                        await caller.reader.read(1)
            await wait_until(lambda: len(proxy.done) == 3, "all records")
            gc.collect()
            ours = {type(found).__qualname__ for found in gc.garbage if is_ours(found)}
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    assert ours == set()


def is_ours(found: object) -> bool:
    return type(found).__module__.startswith("proxy.")
