"""What is particular to this client: TLS, its bounds, and what it keeps.

The rest of its contract is tested through the relay, where it can be seen.
"""

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from proxy.core.routing import Upstream
from proxy.ports.upstream import Phase, UpstreamRequest, UpstreamResponse, UpstreamUnavailableError
from proxy.upstreams.session import AiohttpClient, ClientLimits
from tests.helpers.raw_upstream import RawUpstream, replying, wait_until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def client(limits=None, **options):
    async with asyncio.TaskGroup() as tasks:
        opened = AiohttpClient(tasks, limits, **options)
        try:
            yield opened
        finally:
            await opened.aclose()


def request(port: int, *, scheme: str = "http", **fields: Any) -> UpstreamRequest:
    upstream = Upstream.parse("up", "openai", f"{scheme}://127.0.0.1:{port}")
    return UpstreamRequest(
        upstream=upstream,
        method=fields.pop("method", "GET"),
        target="/x",
        headers=((b"Host", upstream.host_header), *fields.pop("headers", ())),
        **fields,
    )


async def read_all(response: UpstreamResponse) -> bytes:
    data = response.take_ready()
    while not response.at_end:
        data += await response.next_chunk()
    return data


async def test_a_call_waits_for_a_free_connection_and_no_longer_than_allowed():
    limits = ClientLimits(max_connections=1, connect_s=0.05)
    async with RawUpstream(replying(OK)) as upstream, client(limits) as sender:
        first = await sender.send(request(upstream.port))
        # An answer that came whole is done with; this one holds its connection.
        assert not first.at_end

        with pytest.raises(UpstreamUnavailableError) as caught:
            await sender.send(request(upstream.port))
        assert (caught.value.phase, caught.value.sent) == (Phase.CONNECT, False)

        assert await read_all(first) == b"ok"
        assert await read_all(await sender.send(request(upstream.port))) == b"ok"
        assert len(upstream.connections) == 1


async def test_an_answer_that_was_not_read_to_its_end_costs_its_connection():
    async with RawUpstream(replying(OK)) as upstream, client() as sender:
        first = await sender.send(request(upstream.port))
        first.close()
        first.close()

        assert await read_all(await sender.send(request(upstream.port))) == b"ok"
        assert len(upstream.connections) == 2


async def test_a_cancelled_call_is_hung_up_on():
    async def script(connection):
        await connection.request()
        await connection.wait_closed_by_peer()

    async with RawUpstream(script) as upstream, client() as sender:
        async with asyncio.TaskGroup() as tasks:
            call = tasks.create_task(sender.send(request(upstream.port)))
            await wait_until(lambda: upstream.requests, "the call upstream")
            call.cancel()

        await wait_until(upstream.connections[0].closed.is_set, "the upstream to be hung up on")


async def test_a_body_can_be_sent_in_chunks_of_any_size():
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"a", b"", b"bc" * 50000):
            yield piece

    headers = ((b"Transfer-Encoding", b"chunked"),)
    async with RawUpstream(replying(OK)) as upstream, client() as sender:
        for body in (pieces(), b"whole", b"", None):
            sent = request(upstream.port, method="POST", headers=headers, body=body, chunked=True)
            await read_all(await sender.send(sent))

        bodies = [received.body for received in upstream.requests]
        assert bodies == [b"a" + b"bc" * 50000, b"whole", b"", b""]


async def test_a_whole_body_can_be_held_until_it_is_wanted():
    async def script(connection):
        await connection.reader.readuntil(b"\r\n\r\n")
        await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await connection.reader.readexactly(3) == b"abc"
        await connection.send(OK)

    informed: list[object] = []
    headers = ((b"Expect", b"100-continue"), (b"Content-Length", b"3"))
    async with RawUpstream(script) as upstream, client() as sender:
        sent = request(
            upstream.port,
            method="POST",
            headers=headers,
            body=b"abc",
            expect_continue=True,
            on_informational=lambda *answer: informed.append(answer),
        )
        assert await read_all(await sender.send(sent)) == b"ok"

    assert informed == [(100, "Continue", ())]


async def test_a_body_that_is_not_wanted_is_not_sent_while_the_answer_still_comes():
    async def script(connection):
        await connection.reader.readuntil(b"\r\n\r\n")
        await connection.send(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\n")
        # Long after the client would have gone on without the word.
        await asyncio.sleep(0.1)
        await connection.send(b"no")
        assert await connection.wait_closed_by_peer() == b""

    headers = ((b"Expect", b"100-continue"), (b"Content-Length", b"3"))
    async with RawUpstream(script) as upstream, client(ClientLimits(continue_s=0.02)) as sender:
        sent = request(
            upstream.port, method="POST", headers=headers, body=b"abc", expect_continue=True
        )
        assert await read_all(await sender.send(sent)) == b"no"
        await wait_until(upstream.connections[0].closed.is_set, "the upstream to be hung up on")


async def test_what_arrived_before_the_break_is_handed_out_before_the_break():
    async def script(connection):
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")

    async with RawUpstream(script) as upstream, client() as sender:
        response = await sender.send(request(upstream.port))
        await wait_until(response._payload.exception, "the break to be noticed")

        assert response.take_ready() == b""
        assert await response.next_chunk() == b"abc"
        with pytest.raises(UpstreamUnavailableError, match="broke off"):
            await response.next_chunk()
        response.close()


async def test_an_upstream_that_waits_for_a_slow_reader_is_not_silent():
    async def script(connection):
        await connection.request()
        await connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n" + b"x" * 8000000
        )
        await connection.wait_closed_by_peer()

    async with RawUpstream(script) as upstream, client(ClientLimits(idle_s=0.05)) as sender:
        response = await sender.send(request(upstream.port))
        # Longer than the limit, with more in the pipe than is held here.
        await asyncio.sleep(0.2)

        assert len(await read_all(response)) == 8000000


async def test_a_cancelled_upload_is_cut_and_not_sent_to_its_end():
    total = 48 << 20
    go = asyncio.Event()
    received = 0

    async def script(connection):
        nonlocal received
        connection.writer.transport.pause_reading()
        await go.wait()
        connection.writer.transport.resume_reading()
        received = len(await connection.wait_closed_by_peer())

    headers = ((b"Content-Length", b"%d" % total),)
    async with RawUpstream(script) as upstream, client() as sender:
        sent = request(upstream.port, method="POST", headers=headers, body=b"x" * total)
        async with asyncio.TaskGroup() as tasks:
            call = tasks.create_task(sender.send(sent))
            await wait_until(lambda: upstream.connections, "the call upstream")
            call.cancel()
        go.set()

        await wait_until(upstream.connections[0].closed.is_set, "the upstream to be hung up on")
        assert received < total


# TLS.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate for 127.0.0.1, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "upstream")])
    now = datetime.fromtimestamp(1_700_000_000, UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=36500))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "upstream.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@asynccontextmanager
async def tls_upstream(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def serve(reader, writer):
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(OK)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_a_certificate_that_nobody_vouches_for_is_refused(certificate):
    async with tls_upstream(certificate) as port, client() as sender:
        with pytest.raises(UpstreamUnavailableError) as caught:
            await sender.send(request(port, scheme="https"))

        assert (caught.value.phase, caught.value.sent) == (Phase.CONNECT, False)


async def test_a_certificate_that_is_trusted_serves_over_one_kept_connection(certificate):
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with tls_upstream(certificate) as port, client(ssl_context=trusting) as sender:
        for _ in range(3):
            assert await read_all(await sender.send(request(port, scheme="https"))) == b"ok"


async def test_proxies_and_credentials_of_the_environment_are_not_used(monkeypatch, tmp_path):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b")
    monkeypatch.setenv("NETRC", str(netrc))
    async with RawUpstream(replying(OK)) as upstream, client() as sender:
        await read_all(await sender.send(request(upstream.port)))

        assert (
            upstream.requests[0].head == b"GET /x HTTP/1.1\r\nHost: %b\r\n\r\n" % upstream.authority
        )
