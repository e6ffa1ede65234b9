import asyncio
import socket
import ssl

import pytest

from proxy.core.upstream import Upstream
from proxy.ports.upstream import ClientLimits, Phase, UpstreamUnavailableError
from proxy.upstreams.connection import Connection
from proxy.upstreams.dial import Dialer
from proxy.upstreams.lean_client import LeanClient
from tests.helpers.raw_upstream import RawUpstream, replying, wait_until
from tests.upstreams.clients import OK, opened, read_all, request, tls_upstream


async def test_a_connection_is_kept_alive_while_a_model_thinks():
    async with RawUpstream(replying(OK)) as upstream, opened(LeanClient) as client:
        await read_all(await client.send(request(upstream.port)))

        (connection,) = client._pool._all
        sock = connection.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) < 300
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_host_with_one_address_that_answers_is_reached(monkeypatch):
    async with RawUpstream(replying(OK)) as upstream, opened(LeanClient) as client:

        def look_up(host, port, *args, **kwargs):
            return [
                (family, socket.SOCK_STREAM, 6, "", (address, port))
                for family, address in ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"))
            ]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

        assert await read_all(await client.send(request(upstream.port, host="up.test"))) == b"ok"


@pytest.mark.parametrize("host", ["nowhere.invalid", "x" * 70 + ".test"])
async def test_a_name_that_leads_nowhere_is_no_connection(monkeypatch, host):
    real = socket.getaddrinfo

    def look_up(name, *args, **kwargs):
        # No question leaves the machine.
        if name == "nowhere.invalid":
            raise socket.gaierror("no such name")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with opened(LeanClient) as client:
        with pytest.raises(UpstreamUnavailableError) as caught:
            await client.send(request(80, host=host))

    assert (caught.value.phase, caught.value.sent) == (Phase.CONNECT, False)


async def test_the_verifying_context_is_made_when_the_first_call_needs_it():
    # An upstream that knows no TLS never shakes hands.
    limits = ClientLimits(connect_s=0.5)
    async with RawUpstream(replying(OK)) as upstream, opened(LeanClient, limits) as client:
        await read_all(await client.send(request(upstream.port)))
        assert client._pool._dialer._ssl is None

        with pytest.raises(UpstreamUnavailableError):
            await client.send(request(upstream.port, scheme="https"))

        assert client._pool._dialer._ssl is not None


async def test_one_who_gives_up_just_as_a_connection_is_made_harms_no_other(certificate):
    """What is left of it must not stand in the way of whoever gets its number next."""
    context = ssl.create_default_context(cafile=str(certificate))
    dialer = Dialer(context)
    made: list[Connection] = []

    def make(sock):
        made.append(Connection(sock, ClientLimits(), site=None, on_lost=lambda _: None))
        return made[-1]

    class GivenUp(Connection):
        def connection_made(self, transport):
            super().connection_made(transport)
            dialling.cancel()

    def make_given_up(sock):
        made.append(GivenUp(sock, ClientLimits(), site=None, on_lost=lambda _: None))
        return made[-1]

    async with tls_upstream(certificate) as server:
        port = server.sockets[0].getsockname()[1]
        upstream = Upstream.parse("up", "openai", f"https://127.0.0.1:{port}")
        for _ in range(3):
            async with asyncio.TaskGroup() as tasks:
                dialling = tasks.create_task(dialer.open(upstream, make_given_up))
            connection = await dialer.open(upstream, make)

            assert not connection.closing
            connection.abort()

        await wait_until(lambda: not any(one._stands for one in made), "their ends")
