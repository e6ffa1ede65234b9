"""What a caller sees of the end of an answer that ends with its connection."""

import asyncio
import socket
import ssl
import struct
from typing import Any

import pytest

from proxy.web.forwarding.endings import end_now
from tests.helpers.certificates import write_certificate
from tests.helpers.loops import settled
from tests.helpers.raw_upstream import (
    TIMEOUT_S,
    RawConnection,
    RawUpstream,
    read_head,
    wait_until,
)
from tests.web.stage import CLOSE_HEAD, OK, POST, stage
from tests.web.transparency.harness import RunningProxy, running_proxy


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return write_certificate(tmp_path_factory.mktemp("tls") / "proxy.pem")


@pytest.fixture(params=["plain", "tls"])
def secured(request, certificate) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """What the proxy and its caller secure their connection with, if they do."""
    if request.param == "plain":
        return None, None
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    return serving, ssl.create_default_context(cafile=str(certificate))


@pytest.mark.parametrize("end", ["whole", "broken", "drained"])
async def test_only_a_whole_answer_ends_in_order(factory, secured, end):
    go = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await connection.send(CLOSE_HEAD + b"part")
        if end == "drained":
            await connection.wait_closed_by_peer()
        await go.wait()
        if end == "broken":
            connection.reset()

    serving, trusting = secured
    async with RawUpstream(script) as upstream:
        async with running_proxy(upstream.port, factory, tls=serving, drain_s=0.05) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, ssl=trusting)
            writer.write(POST)
            await reader.readuntil(b"part")
            if end != "drained":
                go.set()
                await wait_until(lambda: proxy.done, "the end of the call")

        if end == "whole":
            assert await reader.read() == b""
        else:
            with pytest.raises(ConnectionResetError):
                await reader.read()
        writer.transport.abort()


@pytest.mark.parametrize("end", ["whole", "broken"])
async def test_an_answer_of_a_proxy_that_ends_is_told_to_be_the_last(factory, end):
    go = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await go.wait()
        if end == "whole":
            await connection.send(OK)
        else:
            connection.reset()

    async with stage(script, factory) as (upstream, proxy, caller):
        await caller.send(POST)
        await wait_until(lambda: upstream.requests, "the call")
        proxy.server.pre_shutdown()
        go.set()

        answer = await caller.response()
        assert answer.start_line.split()[1] == (b"200" if end == "whole" else b"502")
        assert answer.value(b"connection") == b"close"
        assert await caller.reader.read() == b""


async def test_an_answer_that_ends_with_its_connection_comes_piece_by_piece(factory, secured):
    arrived = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await connection.send(CLOSE_HEAD)
        for _ in range(4):
            await connection.send(b"piece")
            await arrived.wait()
            arrived.clear()

    serving, trusting = secured
    async with (
        RawUpstream(script) as upstream,
        running_proxy(upstream.port, factory, tls=serving) as proxy,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, ssl=trusting)
        writer.write(POST)
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(4):
            assert await asyncio.wait_for(reader.readexactly(5), TIMEOUT_S) == b"piece"
            arrived.set()

        assert await reader.read() == b""
        writer.transport.abort()


async def test_an_answer_whose_end_was_not_taken_does_not_end_in_order(factory):
    async def script(connection: RawConnection) -> None:
        await connection.request()
        await connection.send(CLOSE_HEAD)
        standing = only(proxy)
        while not standing.transport.get_write_buffer_size():
            await connection.send(b"x" * 16384)
            await settled()
        ended.set()

    ended = asyncio.Event()
    async with (
        RawUpstream(script) as upstream,
        running_proxy(upstream.port, factory, drain_s=0.05) as proxy,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(POST)
        await ended.wait()
        await settled()
        only(proxy).abort()

        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.transport.abort()


def only(proxy: RunningProxy) -> Any:
    (connection,) = proxy.server.connections
    return connection


async def test_an_answer_that_does_not_await_the_call_ends_at_once(factory):
    async def script(connection: RawConnection) -> None:
        await read_head(connection.reader)
        await connection.send(CLOSE_HEAD + b"no")

    async with stage(script, factory) as (_, proxy, caller):
        await caller.send(b"POST /up/x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")

        assert (await caller.response()).body == b"no"
        # What is left of the call is still read, or closing would reset the connection.
        assert proxy.server.connections
        await caller.send(b"def")


async def test_who_has_just_reset_its_connection_is_told_no_end():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        caller = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, accepted)
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    caller.close()

    end_now(transport)

    transport.abort()
