"""The relay under everything that goes wrong or slowly, on real sockets."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager

import pytest

from proxy.ports.upstream import Phase, UpstreamUnavailableError
from proxy.upstreams.session import ClientLimits
from proxy.web.forward import Forwarded, Outcome
from tests.helpers.raw_upstream import (
    RawCaller,
    RawConnection,
    RawUpstream,
    read_head,
    replying,
    wait_until,
)
from tests.web.transparency.harness import CLIENTS, ClientFactory, RunningProxy, running_proxy

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /up/v1/x HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /up/v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
CLOSE_HEAD = b"HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\n"

MIB = 1 << 20
# What two loopback connections may hold in kernel buffers (tcp_rmem and tcp_wmem
# reach 6 and 4 MiB each), and the proxy's own few hundred KiB.
HELD_AT_MOST = 24 * MIB


@pytest.fixture(params=list(CLIENTS))
def factory(request) -> ClientFactory:
    return CLIENTS[request.param]


@asynccontextmanager
async def stage(script, factory, **options):
    """An upstream, the proxy before it, and a caller connected to that."""
    async with (
        RawUpstream(script) as upstream,
        running_proxy(upstream.port, factory, **options) as proxy,
        RawCaller(proxy.port) as caller,
    ):
        yield upstream, proxy, caller


async def silent(connection: RawConnection) -> None:
    await connection.request()
    await connection.wait_closed_by_peer()


async def one_record(proxy: RunningProxy) -> Forwarded:
    await wait_until(lambda: proxy.done, "the record of the call")
    assert len(proxy.done) == 1
    return proxy.done[0]


def failure(record: Forwarded) -> UpstreamUnavailableError:
    assert record.error is not None
    return record.error


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
    async def script(connection):
        await read_head(connection.reader)
        await connection.wait_closed_by_peer()

    async with stage(script, factory) as (upstream, proxy, caller):
        await caller.send(b"POST /up/x HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nabc")
        await wait_until(lambda: upstream.connections, "the call upstream")

        caller.writer.close()

        await wait_until(upstream.connections[0].closed.is_set, "the upstream to be hung up on")
        assert (await one_record(proxy)).outcome is Outcome.CALLER_LEFT


@pytest.mark.parametrize("then", [b"", b"zz\r\n"], ids=["silence", "nonsense"])
async def test_a_caller_whose_body_does_not_go_on_cuts_the_upload(factory, then):
    async def script(connection):
        await read_head(connection.reader)
        rest = await connection.wait_closed_by_peer()
        assert not rest.endswith(b"0\r\n\r\n")

    async with stage(script, factory, upload_idle_s=0.05) as (upstream, proxy, caller):
        head = b"POST /up/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        await caller.send(head + b"3\r\nabc\r\n")
        await wait_until(lambda: upstream.connections, "the call upstream")

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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with running_proxy(port, factory) as proxy, RawCaller(proxy.port) as caller:
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


# Pace.


async def test_a_slow_reader_holds_the_upstream_back_and_loses_nothing(factory):
    sent = 0
    total = 64 * MIB

    async def script(connection):
        nonlocal sent
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        while sent < total:
            await connection.send(b"x" * 65536)
            sent += 65536

    async with stage(script, factory) as (_, _, caller):
        caller.writer.transport.pause_reading()
        await caller.send(GET)

        await stalled(lambda: sent)
        assert sent < HELD_AT_MOST

        caller.writer.transport.resume_reading()
        assert len((await caller.response()).body) == total


async def test_a_slow_upstream_holds_an_upload_back_and_gets_all_of_it(factory):
    sent = 0
    total = 64 * MIB
    go = asyncio.Event()

    async def script(connection):
        connection.writer.transport.pause_reading()
        await go.wait()
        connection.writer.transport.resume_reading()
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


async def stalled(progress) -> None:
    """Wait until the progress stands still, after having begun."""
    last, still = 0, 0
    while still < 20:
        await asyncio.sleep(0.01)
        still = still + 1 if progress() == last != 0 else 0
        last = progress()


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


# Kept connections.


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
        connection.writer.transport.pause_reading()
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
        caller.writer.transport.pause_reading()
        await caller.send(GET)
        # Longer than the limit: what is measured is the upstream, and it waits for us.
        await asyncio.sleep(0.7)
        caller.writer.transport.resume_reading()

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


async def test_an_upstream_that_knows_no_continue_gets_the_body_after_a_while(factory):
    limits = ClientLimits(continue_s=0.01)
    async with stage(replying(OK), factory, limits=limits) as (upstream, _, caller):
        await caller.send(EXPECTING)
        assert (await caller.response()).start_line == b"HTTP/1.1 100 Continue"
        await caller.send(b"abc")

        assert (await caller.response()).body == b"ok"
        assert upstream.requests[0].body == b"abc"


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
