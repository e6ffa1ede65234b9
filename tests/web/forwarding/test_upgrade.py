"""Upgraded connections carry whatever their two ends agree upon."""

import aiohttp
from aiohttp import web

from proxy.web.forwarding.relay import Outcome
from tests.helpers.raw_upstream import read_head, wait_until
from tests.web.stage import HELD_AT_MOST, MIB, stage, stalled
from tests.web.transparency.harness import running_proxy

HANDSHAKE = (
    b"GET /up/v1/realtime?model=x HTTP/1.1\r\nHost: a\r\nupgrade: websocket\r\n"
    b"Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: realtime, b\r\n\r\n"
)
SWITCH = (
    b"HTTP/1.1 101 Web Socket Protocol Handshake\r\nupgrade: WebSocket\r\n"
    b"Connection: upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


async def test_the_handshake_and_all_bytes_after_it_pass_unchanged(factory):
    async def script(connection):
        head = await read_head(connection.reader)
        assert head.startswith(b"GET /v1/realtime?model=x HTTP/1.1\r\n")
        for line in HANDSHAKE.split(b"\r\n")[2:]:
            assert line in head
        # The first frame comes in one segment with the switch.
        await connection.send(SWITCH + b"\x81\x05hello")
        assert await connection.reader.readexactly(8) == b"\x00\xff up \r\n"
        await connection.send(b"\x00\xff down")
        await connection.wait_closed_by_peer()

    async with stage(script, factory) as (upstream, _, caller):
        await caller.send(HANDSHAKE)
        assert await caller.reader.readexactly(len(SWITCH)) == SWITCH
        assert await caller.reader.readexactly(7) == b"\x81\x05hello"
        await caller.send(b"\x00\xff up \r\n")
        assert await caller.reader.readexactly(7) == b"\x00\xff down"

        caller.writer.close()

        await wait_until(upstream.connections[0].closed.is_set, "the upstream to be hung up on")


async def test_bytes_sent_with_the_handshake_arrive_after_the_switch(factory):
    async def script(connection):
        await read_head(connection.reader)
        await connection.send(SWITCH)
        await connection.send(await connection.reader.readexactly(5))
        await connection.wait_closed_by_peer()

    async with stage(script, factory) as (_, _, caller):
        await caller.send(HANDSHAKE + b"early")

        assert await caller.reader.readexactly(len(SWITCH) + 5) == SWITCH + b"early"


async def test_any_protocol_can_be_switched_to(factory):
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: foo/2\r\n\r\n"

    async def script(connection):
        assert b"Upgrade: foo/2\r\n" in await read_head(connection.reader)
        await connection.send(switch)
        await connection.send(await connection.reader.readexactly(4))
        await connection.wait_closed_by_peer()

    async with stage(script, factory) as (_, _, caller):
        await caller.send(
            b"GET /up/x HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: foo/2\r\n\r\n"
        )
        assert await caller.reader.readexactly(len(switch)) == switch
        await caller.send(b"\x00foo")
        assert await caller.reader.readexactly(4) == b"\x00foo"


async def test_an_upstream_that_ends_the_tunnel_ends_it_for_the_caller(factory):
    async def script(connection):
        await read_head(connection.reader)
        await connection.send(SWITCH + b"last words")

    async with stage(script, factory) as (_, proxy, caller):
        await caller.send(HANDSHAKE)

        assert await caller.reader.read() == SWITCH + b"last words"
        await wait_until(lambda: proxy.done, "the record")
        record = proxy.done[0]
        assert (record.outcome, record.status) == (Outcome.COMPLETED, 101)
        assert record.bytes_down == len(b"last words")


async def test_what_a_caller_says_while_leaving_still_arrives(factory):
    heard = bytearray()

    async def script(connection):
        await read_head(connection.reader)
        await connection.send(SWITCH)
        heard.extend(await connection.wait_closed_by_peer())

    async with stage(script, factory) as (upstream, _, caller):
        await caller.send(HANDSHAKE)
        await caller.reader.readexactly(len(SWITCH))

        caller.writer.write(b"goodbye")
        caller.writer.close()

        await wait_until(upstream.connections[0].closed.is_set, "the upstream to be hung up on")
        assert heard == b"goodbye"


async def test_a_refused_upgrade_is_an_ordinary_answer_and_the_connection_goes_on(factory):
    async def script(connection):
        while True:
            await connection.request()
            await connection.send(b"HTTP/1.1 403 No\r\nX-A: 1\r\nContent-Length: 2\r\n\r\nno")

    async with stage(script, factory) as (upstream, _, caller):
        await caller.send(HANDSHAKE)
        answer = await caller.response()
        assert (answer.start_line, answer.body) == (b"HTTP/1.1 403 No", b"no")

        await caller.send(b"GET /up/x HTTP/1.1\r\nHost: a\r\n\r\n")

        assert (await caller.response()).body == b"no"
        assert upstream.requests[1].value(b"upgrade") is None


async def test_a_slow_end_holds_the_other_one_back_and_loses_nothing(factory):
    sent = 0
    total = 48 * MIB

    async def script(connection):
        nonlocal sent
        await read_head(connection.reader)
        await connection.send(SWITCH)
        while sent < total:
            await connection.send(b"x" * 65536)
            sent += 65536

    async with stage(script, factory) as (_, _, caller):
        await caller.send(HANDSHAKE)
        await caller.reader.readexactly(len(SWITCH))
        caller.pause_reading()

        await stalled(lambda: sent)
        assert sent < HELD_AT_MOST

        caller.resume_reading()
        assert len(await caller.reader.read()) == total


async def test_a_real_websocket_client_talks_to_a_real_server(factory):
    async def serve(request):
        socket = web.WebSocketResponse(protocols=("realtime",))
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data[::-1])
        return socket

    runner = web.ServerRunner(web.Server(serve))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with (
            running_proxy(runner.addresses[0][1], factory) as proxy,
            aiohttp.ClientSession() as session,
            session.ws_connect(
                f"http://127.0.0.1:{proxy.port}/up/v1/realtime",
                protocols=("realtime",),
                compress=15,
            ) as socket,
        ):
            for text in ("abc", "é€" * 5000):
                await socket.send_str(text)
                assert await socket.receive_str() == text[::-1]
            assert socket.protocol == "realtime"
    finally:
        await runner.cleanup()
