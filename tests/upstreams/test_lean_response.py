"""An answer as it comes in: pace, time, and how it is handed out."""

import asyncio
import contextlib

import pytest

from proxy.ports.upstream import ClientLimits, Phase, UpstreamUnavailableError
from proxy.reading import READ_AT_MOST
from proxy.upstreams.lean_client import LeanClient
from tests.helpers.raw_upstream import RawUpstream, replying, wait_until
from tests.upstreams.clients import OK, opened, read_all, request

CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_chunks_are_handed_out_as_framed_only_if_wanted():
    body = b"3;x=y\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"
    async with RawUpstream(replying(CHUNKED_HEAD + body)) as upstream, opened(LeanClient) as client:
        kept = await client.send(request(upstream.port, keep_chunks=True))
        taken = await client.send(request(upstream.port))

        assert (kept.framed, taken.framed) == (True, False)
        assert await read_all(kept) == body
        assert await read_all(taken) == b"abc"
        assert (kept.body_bytes, taken.body_bytes) == (3, 3)
        assert taken.trailers == ((b"X-T", b"1"),)


async def test_each_piece_is_pushed_until_the_sink_is_full_and_then_goes_on():
    step = asyncio.Semaphore(0)

    async def script(connection):
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        for piece in (b"a", b"b", b"c", b"d"):
            await step.acquire()
            await connection.send(piece)

    got: list[bytes] = []

    def write(data: bytes) -> bool:
        got.append(data)
        step.release()
        return data != b"b"

    async with RawUpstream(script) as upstream, opened(LeanClient) as client:
        answer = await client.send(request(upstream.port))
        step.release()
        await answer.pump(write)
        assert got == [b"a", b"b"]
        assert not answer.at_end

        await answer.pump(write)

        assert b"".join(got) == b"abcd"
        assert answer.at_end


async def test_a_reader_that_does_not_read_holds_a_bounded_number_of_bytes():
    total = 16 << 20

    async def script(connection):
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        await connection.send(b"x" * total)
        await connection.wait_closed_by_peer()

    async with RawUpstream(script) as upstream, opened(LeanClient) as client:
        answer = await client.send(request(upstream.port))
        (connection,) = client._pool._all
        await wait_until(lambda: connection.reading_paused, "the upstream to be held back")
        assert answer._held_bytes < 2 * READ_AT_MOST

        assert len(await read_all(answer)) == total
        assert not connection.reading_paused


async def test_a_connection_serves_again_while_its_answer_is_still_unread():
    async with RawUpstream(replying(OK)) as upstream, opened(LeanClient) as client:
        first = await client.send(request(upstream.port))
        second = await client.send(request(upstream.port))
        first.close()

        assert await read_all(second) == b"ok"
        assert await read_all(first) == b"ok"
        assert len(upstream.connections) == 1


@pytest.mark.parametrize(
    ("reply", "phase"),
    [
        (b"", Phase.FIRST_BYTE),
        (b"HTTP/1.1 200 OK\r\nContent-", Phase.FIRST_BYTE),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", Phase.IDLE),
        (CHUNKED_HEAD + b"3\r\nab", Phase.IDLE),
    ],
)
async def test_silence_ends_a_call(reply, phase):
    async def script(connection):
        await connection.request()
        await connection.send(reply)
        await connection.wait_closed_by_peer()

    limits = ClientLimits(first_byte_s=0.05, idle_s=0.05)
    async with RawUpstream(script) as upstream, opened(LeanClient, limits) as client:
        with pytest.raises(UpstreamUnavailableError) as caught:
            await read_all(await client.send(request(upstream.port)))

        assert (caught.value.phase, caught.value.cause) == (phase, "timeout")
        await wait_until(upstream.connections[0].closed.is_set, "the upstream to be hung up on")


async def test_a_call_sets_no_timer_and_starts_no_task(monkeypatch):
    async with RawUpstream(replying(OK)) as upstream, opened(LeanClient) as client:
        await read_all(await client.send(request(upstream.port)))
        loop = asyncio.get_running_loop()
        before = asyncio.all_tasks()

        def refuse(*args, **kwargs):
            raise AssertionError("a timer for one call")

        for _ in range(3):
            sent = client.send(request(upstream.port, method="POST", body=b"{}"))
            # Only until the call is out: the rest is the stub's own loop.
            with monkeypatch.context() as patch:
                patch.setattr(loop, "call_at", refuse, raising=False)
                patch.setattr(loop, "call_later", refuse, raising=False)
                with contextlib.suppress(StopIteration):
                    waiting = sent.send(None)
            assert asyncio.all_tasks() == before
            waiting._asyncio_future_blocking = False
            await wait_until(waiting.done)
            with pytest.raises(StopIteration) as done:
                sent.send(None)
            assert await read_all(done.value.value) == b"ok"


async def test_an_answer_that_never_begins_to_end_its_head_is_refused():
    async def script(connection):
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000)
        await connection.wait_closed_by_peer()

    limits = ClientLimits(max_head_bytes=4096)
    async with RawUpstream(script) as upstream, opened(LeanClient, limits) as client:
        with pytest.raises(UpstreamUnavailableError) as caught:
            await client.send(request(upstream.port))

    assert caught.value.cause == "malformed"
