"""What both clients do alike, seen without the relay around them."""

import asyncio
import gc
import select
import socket
import ssl
import threading
from collections.abc import AsyncIterator

import pytest

from proxy.ports.upstream import ClientLimits, Phase, UpstreamUnavailableError
from proxy.upstreams.aiohttp_client import AiohttpClient
from tests.helpers.raw_upstream import TIMEOUT_S, RawUpstream, replying, wait_until
from tests.upstreams.clients import CLIENTS, OK, opened, read_all, request, tls_upstream


@pytest.fixture(params=list(CLIENTS))
def kind(request):
    return CLIENTS[request.param]


async def test_a_caller_is_told_that_its_upstream_refuses_and_not_at_which_address(kind):
    async with RawUpstream(replying(OK)) as upstream:
        port = upstream.port
    async with opened(kind) as sender:
        with pytest.raises(UpstreamUnavailableError) as caught:
            await sender.send(request(port))

    assert str(caught.value) == "cannot connect to upstream 'up': Connection refused"
    assert str(port) in caught.value.detail


async def test_a_caller_is_told_no_name_that_a_certificate_is_not_for(kind, certificate):
    context = ssl.create_default_context()
    async with tls_upstream(certificate) as server, opened(kind, ssl_context=context) as sender:
        with pytest.raises(UpstreamUnavailableError) as caught:
            await sender.send(request(server.sockets[0].getsockname()[1], scheme="https"))

    assert str(caught.value).endswith("'up': its certificate cannot be verified")
    assert "CERTIFICATE_VERIFY_FAILED" in caught.value.detail


async def test_a_caller_is_told_of_no_address_that_speaks_no_tls(kind):
    async def script(connection):
        await connection.send(OK)
        await connection.wait_closed_by_peer()

    async with RawUpstream(script) as upstream, opened(kind) as sender:
        with pytest.raises(UpstreamUnavailableError) as caught:
            await sender.send(request(upstream.port, scheme="https"))

    assert "SSL" in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)


async def test_a_name_that_can_be_none_is_an_upstream_that_cannot_be_reached(kind):
    async with opened(kind) as sender:
        with pytest.raises(UpstreamUnavailableError):
            await sender.send(request(9, host="a..b"))


async def test_a_call_waits_for_a_free_connection_and_no_longer_than_allowed(kind):
    go = asyncio.Event()

    async def script(connection):
        while True:
            await connection.request()
            await connection.send(OK[:-1])
            await go.wait()
            await connection.send(OK[-1:])

    limits = ClientLimits(max_connections=1, connect_s=0.25)
    async with RawUpstream(script) as upstream, opened(kind, limits) as sender:
        first = await sender.send(request(upstream.port))
        # An answer that came whole is done with; this one holds its connection.
        assert not first.at_end

        with pytest.raises(UpstreamUnavailableError) as caught:
            await sender.send(request(upstream.port))
        assert (caught.value.phase, caught.value.sent) == (Phase.CONNECT, False)
        assert str(caught.value) == "cannot connect to upstream 'up': timed out"

        go.set()
        assert await read_all(first) == b"ok"
        assert await read_all(await sender.send(request(upstream.port))) == b"ok"
        assert len(upstream.connections) == 1


async def test_one_upstream_at_its_bound_leaves_room_for_another(kind):
    async def script(connection):
        await connection.request()
        await connection.wait_closed_by_peer()

    limits = ClientLimits(max_per_upstream=1, max_connections=2)
    async with (
        RawUpstream(script) as silent,
        RawUpstream(replying(OK)) as other,
        opened(kind, limits) as sender,
        asyncio.TaskGroup() as tasks,
    ):
        calls = [tasks.create_task(sender.send(request(silent.port))) for _ in range(2)]
        await wait_until(lambda: silent.requests, "one of the calls")

        assert await read_all(await sender.send(request(other.port))) == b"ok"
        assert len(silent.connections) == 1
        for call in calls:
            call.cancel()


async def test_a_connection_that_is_too_old_is_not_used_again(kind):
    limits = ClientLimits(max_age_s=0)
    async with RawUpstream(replying(OK)) as upstream, opened(kind, limits) as sender:
        for _ in range(3):
            await read_all(await sender.send(request(upstream.port)))

        assert len(upstream.connections) == 3


async def test_aiohttps_connections_are_forgotten_once_they_are_gone():
    limits = ClientLimits(max_age_s=0)
    async with RawUpstream(replying(OK)) as upstream, opened(AiohttpClient, limits) as sender:
        for _ in range(3):
            await read_all(await sender.send(request(upstream.port)))
        assert sender._lines
        await sender.aclose()

        def are_forgotten() -> bool:
            gc.collect()
            return not sender._lines

        await wait_until(are_forgotten, "the connections to be forgotten")


async def test_a_free_connection_keeps_nothing_of_the_call_before(kind):
    freed = asyncio.Event()

    class Body(bytes):
        def __del__(self) -> None:
            freed.set()

    async def call(port: int) -> None:
        length = ((b"Content-Length", b"2"),)
        sent = request(port, method="POST", headers=length, body=Body(b"hi"))
        await read_all(await sender.send(sent))

    async with RawUpstream(replying(OK)) as upstream, opened(kind) as sender:
        await call(upstream.port)
        gc.collect()

        assert freed.is_set()
        await call(upstream.port)
        assert len(upstream.connections) == 1


async def test_nobody_else_is_sent_over_a_connection_that_a_switch_was_asked_for(kind):
    async with RawUpstream(replying(OK)) as upstream, opened(kind) as sender:
        for upgrade in (False, True, False):
            answer = await sender.send(request(upstream.port, upgrade=upgrade))
            assert await read_all(answer) == b"ok"

        assert [len(one.requests) for one in upstream.connections] == [2, 1]


async def test_an_answer_that_was_not_read_to_its_end_costs_its_connection(kind):
    async def script(connection):
        await connection.request()
        if connection.number == 0:
            await connection.send(OK[:-1])
            await connection.wait_closed_by_peer()
        await connection.send(OK)

    async with RawUpstream(script) as upstream, opened(kind) as sender:
        first = await sender.send(request(upstream.port))
        first.close()
        first.close()

        assert await read_all(await sender.send(request(upstream.port))) == b"ok"
        assert len(upstream.connections) == 2


async def test_a_cancelled_call_is_hung_up_on(kind):
    async def script(connection):
        await connection.request()
        await connection.wait_closed_by_peer()

    async with RawUpstream(script) as upstream, opened(kind) as sender:
        async with asyncio.TaskGroup() as tasks:
            call = tasks.create_task(sender.send(request(upstream.port)))
            await wait_until(lambda: upstream.requests, "the call upstream")
            call.cancel()

        await wait_until(upstream.connections[0].closed.is_set, "the upstream to be hung up on")


async def test_a_body_can_be_sent_in_chunks_of_any_size(kind):
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"a", b"", b"bc" * 50000):
            yield piece

    headers = ((b"Transfer-Encoding", b"chunked"),)
    async with RawUpstream(replying(OK)) as upstream, opened(kind) as sender:
        for body in (pieces(), b"whole", b"", None):
            sent = request(upstream.port, method="POST", headers=headers, body=body, chunked=True)
            await read_all(await sender.send(sent))

        bodies = [received.body for received in upstream.requests]
        assert bodies == [b"a" + b"bc" * 50000, b"whole", b"", b""]


async def test_a_whole_body_can_be_held_until_it_is_wanted(kind):
    async def script(connection):
        await connection.reader.readuntil(b"\r\n\r\n")
        await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await connection.reader.readexactly(3) == b"abc"
        await connection.send(OK)

    informed: list[object] = []
    headers = ((b"Expect", b"100-continue"), (b"Content-Length", b"3"))
    async with RawUpstream(script) as upstream, opened(kind) as sender:
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


async def test_a_body_that_is_not_wanted_is_not_sent_while_the_answer_still_comes(kind):
    given_up = asyncio.Event()

    async def script(connection):
        await connection.reader.readuntil(b"\r\n\r\n")
        await connection.send(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\n")
        await given_up.wait()
        await connection.send(b"no")
        assert await connection.wait_closed_by_peer() == b""

    headers = ((b"Expect", b"100-continue"), (b"Content-Length", b"3"))
    async with (
        RawUpstream(script) as upstream,
        opened(kind, ClientLimits(continue_s=60)) as sender,
    ):
        sent = request(
            upstream.port, method="POST", headers=headers, body=b"abc", expect_continue=True
        )
        answer = await sender.send(sent)
        await wait_until(answer.upload.done, "the upload to be given up")
        given_up.set()
        assert await read_all(answer) == b"no"
        await wait_until(upstream.connections[0].closed.is_set, "the upstream to be hung up on")


def hang_up(
    listener: socket.socket,
    read: threading.Event,
    go: threading.Event,
    *,
    answer: bytes = b"",
    secured: ssl.SSLContext | None = None,
):
    """Serve one call: answer before its body is here, and hang up with a part of it unread."""
    with listener, listener.accept()[0] as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with secured.wrap_socket(raw, server_side=True) if secured else raw as connection:
            received = b""
            while not received.endswith(b"x"):
                received += connection.recv(1024)
            select.select([connection], [], [])
            read.set()
            go.wait()
            connection.sendall(answer)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_refusal_is_read_before_more_is_sent_to_who_hung_up_after_it(
    kind, certificate, scheme
):
    serving, trusting = None, ssl.create_default_context(cafile=str(certificate))
    if scheme == "https":
        serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        serving.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    read, go = threading.Event(), threading.Event()
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig"
    options = {"answer": refusal, "secured": serving}
    upstream = threading.Thread(target=hang_up, args=(listener, read, go), kwargs=options)
    upstream.start()

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 60_000
        await asyncio.to_thread(read.wait)
        go.set()
        # The loop is not to see what comes meanwhile.
        upstream.join()
        for _ in range(3):
            yield b"x" * 60_000

    async with opened(kind, ssl_context=trusting) as sender, asyncio.timeout(TIMEOUT_S):
        call = request(
            port,
            scheme=scheme,
            method="POST",
            headers=((b"Content-Length", b"240000"),),
            body=body(),
        )
        response = await sender.send(call)

        assert (response.status, await read_all(response)) == (413, b"big")


async def test_a_reset_that_comes_together_with_more_of_the_body_ends_that_call_alone(kind):
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    read, go = threading.Event(), threading.Event()
    upstream = threading.Thread(target=hang_up, args=(listener, read, go))
    upstream.start()
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 60_000
        await asyncio.to_thread(read.wait)
        more = loop.create_future()
        loop.add_reader(near, more.set_result, None)
        # The loop is to see both in one turn, the reset first.
        go.set()
        upstream.join()
        far.send(b"x")
        try:
            await more
        finally:
            loop.remove_reader(near)
        yield b"x"

    with near, far:
        async with opened(kind) as sender, asyncio.timeout(TIMEOUT_S):
            length = (b"Content-Length", b"90000")
            call = request(port, method="POST", headers=(length,), body=body())
            with pytest.raises(UpstreamUnavailableError) as caught:
                await sender.send(call)
            assert caught.value.phase is Phase.FIRST_BYTE


async def test_what_arrived_before_the_break_is_handed_out_before_the_break(kind):
    async def script(connection):
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")

    async with RawUpstream(script) as upstream, opened(kind) as sender:
        response = await sender.send(request(upstream.port))
        # Long enough for the break to be noticed, and no sign of it to be seen.
        await wait_until(upstream.connections[0].writer.is_closing)
        for _ in range(10):
            await asyncio.sleep(0)

        data = response.take_ready() or await response.next_chunk()
        assert data == b"abc"
        with pytest.raises(UpstreamUnavailableError, match="broke off"):
            await response.next_chunk()
        response.close()


@pytest.mark.parametrize("then", [b"zz\r\n", b"2\r\nokay\r\n", b"0\r\nX: a\rb\r\n\r\n"])
async def test_a_chunk_that_is_none_ends_the_wait_for_it(kind, then):
    go = asyncio.Event()

    async def script(connection):
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        await go.wait()
        await connection.send(then)
        await connection.wait_closed_by_peer()

    async with RawUpstream(script) as upstream, opened(kind) as sender, asyncio.timeout(TIMEOUT_S):
        response = await sender.send(request(upstream.port))
        data = response.take_ready()
        while data != b"ok":
            data += await response.next_chunk()
        go.set()

        with pytest.raises(UpstreamUnavailableError) as caught:
            await read_all(response)
        response.close()
        assert caught.value.phase is Phase.IDLE


async def test_an_upstream_that_waits_for_a_slow_reader_is_not_silent(kind):
    async def script(connection):
        await connection.request()
        await connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n" + b"x" * 8000000
        )
        await connection.wait_closed_by_peer()

    async with RawUpstream(script) as upstream, opened(kind, ClientLimits(idle_s=0.05)) as sender:
        response = await sender.send(request(upstream.port))
        # Longer than the limit, with more in the pipe than is held here.
        await asyncio.sleep(0.2)

        assert len(await read_all(response)) == 8000000


async def test_a_cancelled_upload_is_cut_and_not_sent_to_its_end(kind):
    total = 48 << 20
    go = asyncio.Event()
    received = 0

    async def script(connection):
        nonlocal received
        connection.pause_reading()
        await go.wait()
        connection.resume_reading()
        received = len(await connection.wait_closed_by_peer())

    headers = ((b"Content-Length", b"%d" % total),)
    async with RawUpstream(script) as upstream, opened(kind) as sender:
        sent = request(upstream.port, method="POST", headers=headers, body=b"x" * total)
        async with asyncio.TaskGroup() as tasks:
            call = tasks.create_task(sender.send(sent))
            await wait_until(lambda: upstream.connections, "the call upstream")
            call.cancel()
        go.set()

        await wait_until(upstream.connections[0].closed.is_set, "the upstream to be hung up on")
        assert received < total


async def test_proxies_and_credentials_of_the_environment_are_not_used(kind, monkeypatch, tmp_path):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b")
    monkeypatch.setenv("NETRC", str(netrc))
    async with RawUpstream(replying(OK)) as upstream, opened(kind) as sender:
        await read_all(await sender.send(request(upstream.port)))

        assert (
            upstream.requests[0].head == b"GET /x HTTP/1.1\r\nHost: %b\r\n\r\n" % upstream.authority
        )


# TLS.


def port_of(server):
    return server.sockets[0].getsockname()[1]


async def test_a_certificate_that_nobody_vouches_for_is_refused(kind, certificate):
    async with tls_upstream(certificate) as server, opened(kind) as sender:
        with pytest.raises(UpstreamUnavailableError) as caught:
            await sender.send(request(port_of(server), scheme="https"))

        assert (caught.value.phase, caught.value.sent) == (Phase.CONNECT, False)


async def test_a_certificate_that_is_trusted_serves_over_one_kept_connection(kind, certificate):
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with tls_upstream(certificate) as server, opened(kind, ssl_context=trusting) as sender:
        for _ in range(3):
            assert (
                await read_all(await sender.send(request(port_of(server), scheme="https"))) == b"ok"
            )
