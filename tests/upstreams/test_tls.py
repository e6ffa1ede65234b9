import asyncio
import os
import socket
import ssl

import pytest

from proxy.ports.upstream import Phase, UpstreamUnavailableError
from proxy.upstreams.lean_client import LeanClient
from proxy.upstreams.tls import ResumingObject, keep_session, resume_sessions, verifying_context
from tests.upstreams.clients import opened, read_all, request, tls_upstream


def test_by_default_certificates_and_names_are_verified():
    context = verifying_context()

    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_a_context_is_prepared_once():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    resume_sessions(context)
    kept = vars(context).copy()
    resume_sessions(context)

    assert vars(context) == kept
    assert context.sslobject_class is ResumingObject


def test_what_is_no_tls_connection_has_no_session():
    keep_session(None)


async def test_the_second_connection_resumes_the_session_of_the_first(certificate):
    context = ssl.create_default_context(cafile=str(certificate))
    async with tls_upstream(certificate) as server:
        port = server.sockets[0].getsockname()[1]
        for resumed in (False, True, True):
            async with opened(LeanClient, ssl_context=context) as client:
                answer = await client.send(request(port, scheme="https"))
                (connection,) = client._pool._all
                secured = connection.transport.get_extra_info("ssl_object")
                assert await read_all(answer) == b"ok"
                assert secured.session_reused is resumed
                assert secured.getpeercert()["subject"]


async def test_a_server_that_lost_its_keys_costs_a_handshake_and_no_call(certificate):
    context = ssl.create_default_context(cafile=str(certificate))
    for _ in range(2):
        # Each has ticket keys of its own.
        async with (
            tls_upstream(certificate) as server,
            opened(LeanClient, ssl_context=context) as client,
        ):
            port = server.sockets[0].getsockname()[1]
            assert await read_all(await client.send(request(port, scheme="https"))) == b"ok"


@pytest.mark.parametrize("size", [3, 1 << 20])
@pytest.mark.parametrize("says_goodbye", [True, False])
async def test_an_answer_that_ends_with_its_connection_is_whole_only_by_a_goodbye(
    certificate, says_goodbye, size
):
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.set_write_buffer_limits(high=0)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * size)
        await writer.drain()
        if not says_goodbye:
            # What anybody on the way could do, and what a crash looks like.
            descriptor = os.dup(writer.get_extra_info("socket").fileno())
            with socket.socket(fileno=descriptor) as cut:
                cut.shutdown(socket.SHUT_WR)
            await done.wait()
        writer.close()

    trusting = ssl.create_default_context(cafile=str(certificate))
    async with (
        await asyncio.start_server(serve, "127.0.0.1", 0, ssl=serving) as server,
        opened(LeanClient, ssl_context=trusting) as client,
    ):
        port = server.sockets[0].getsockname()[1]
        answer = await client.send(request(port, scheme="https"))
        try:
            if says_goodbye:
                assert await read_all(answer) == b"x" * size
            else:
                with pytest.raises(UpstreamUnavailableError) as caught:
                    await read_all(answer)
                assert caught.value.phase is Phase.IDLE
        finally:
            answer.close()
            done.set()
