import asyncio
import socket
import struct

import pytest

from proxy.ports.upstream import Phase, UpstreamUnavailableError
from proxy.upstreams.lean_client import LeanClient
from tests.helpers.raw_upstream import RawUpstream, wait_until
from tests.upstreams.clients import OK, opened, read_all, request


async def test_an_answer_that_came_before_a_reset_is_read():
    """A server that wants no body answers and closes; the next write fails before the read."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        async def unwanted():
            yield b"a"
            # While this blocks the loop does not turn, and so reads nothing.
            peer, _ = listener.accept()
            peer.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            yield b"b"

        headers = ((b"Transfer-Encoding", b"chunked"),)
        port = listener.getsockname()[1]
        async with opened(LeanClient) as client:
            answer = await client.send(
                request(port, method="POST", headers=headers, body=unwanted(), chunked=True)
            )

            assert (answer.status, await read_all(answer)) == (413, b"big")


async def test_unasked_bytes_end_a_free_connection():
    speak = asyncio.Event()

    async def script(connection):
        await connection.request()
        await connection.send(OK)
        await speak.wait()
        await connection.send(OK)
        await connection.wait_closed_by_peer()

    async with RawUpstream(script) as upstream, opened(LeanClient) as client:
        await read_all(await client.send(request(upstream.port)))
        speak.set()

        await wait_until(upstream.connections[0].closed.is_set, "the connection to be cut")
        assert not client._pool._all


async def test_a_goodbye_that_the_loop_has_not_seen_is_seen():
    """Nothing is sent over a connection that the kernel knows to be closed."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        async with opened(LeanClient) as client, asyncio.TaskGroup() as tasks:
            port = listener.getsockname()[1]
            call = tasks.create_task(client.send(request(port, method="POST", body=b"{}")))
            peer, _ = await loop.sock_accept(listener)
            await loop.sock_recv(peer, 65536)
            await loop.sock_sendall(peer, OK)
            await read_all(await call)
            # From here to the second call the loop does not turn.
            peer.close()
            again = client.send(request(port, method="POST", body=b"{}"))
            call = tasks.create_task(again)

            peer, _ = await loop.sock_accept(listener)

            await loop.sock_recv(peer, 65536)
            await loop.sock_sendall(peer, OK)
            assert await read_all(await call) == b"ok"
            peer.close()


async def test_a_reset_without_an_answer_is_a_failure():
    async def script(connection):
        await connection.request()
        sock = connection.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.writer.transport.abort()

    async with RawUpstream(script) as upstream, opened(LeanClient) as client:
        with pytest.raises(UpstreamUnavailableError) as caught:
            await client.send(request(upstream.port, method="POST", body=b"{}"))

    assert (caught.value.phase, caught.value.cause) == (Phase.FIRST_BYTE, "reset")
