"""Upstreams that are reached through a web proxy, with both clients."""

import ssl

import pytest

from proxy.ports.upstream import ClientLimits, Phase, UpstreamUnavailableError
from tests.helpers.web_proxy import TunnelProxy
from tests.upstreams.clients import CLIENTS, opened, read_all, request, tls_upstream


@pytest.fixture(params=list(CLIENTS))
def kind(request):
    return CLIENTS[request.param]


@pytest.fixture
def trust(certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


async def test_calls_go_through_one_tunnel_and_the_web_proxy_sees_none_of_them(
    kind, certificate, trust
):
    async with tls_upstream(certificate) as server:
        port = server.sockets[0].getsockname()[1]
        async with (
            TunnelProxy(port) as web_proxy,
            opened(kind, ssl_context=trust, web_proxy_of=lambda _: web_proxy.way()) as client,
        ):
            for _ in range(3):
                answer = await client.send(request(port, scheme="https"))
                assert await read_all(answer) == b"ok"
            (head,) = web_proxy.asked

    asked = b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % (port, port)
    assert head.startswith(asked)
    assert b"authorization" not in head.lower()


async def test_a_web_proxy_is_told_who_asks(kind, certificate, trust):
    async with tls_upstream(certificate) as server:
        port = server.sockets[0].getsockname()[1]
        async with (
            TunnelProxy(port) as web_proxy,
            opened(
                kind, ssl_context=trust, web_proxy_of=lambda _: web_proxy.way("Basic bWU6cHc=")
            ) as client,
        ):
            assert await read_all(await client.send(request(port, scheme="https"))) == b"ok"
            (head,) = web_proxy.asked

    assert b"\r\nProxy-Authorization: Basic bWU6cHc=\r\n" in head


async def test_who_is_not_reached_through_it_is_called_directly(kind, certificate, trust):
    async with tls_upstream(certificate) as server:
        port = server.sockets[0].getsockname()[1]
        async with opened(kind, ssl_context=trust, web_proxy_of=lambda _: None) as client:
            assert await read_all(await client.send(request(port, scheme="https"))) == b"ok"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 407 Who?\r\nContent-Length: 3\r\n\r\nno!", "407"),
        (b"HTTP/1.0 403 No\r\n\r\n<html>", "403"),
        (b"HTTP/1.1 299 Odd\r\n\r\nmore", None),
        (b"SSH-2.0-OpenSSH\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nVia: unfinished", None),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 9000 + b"\r\n", None),
        (b"", None),
    ],
    ids=["407", "403", "more", "no HTTP", "cut off", "endless", "hung up"],
)
async def test_without_a_tunnel_nothing_of_a_call_is_sent(kind, trust, answer, words):
    async with (
        TunnelProxy(9, answer=answer) as web_proxy,
        opened(kind, ssl_context=trust, web_proxy_of=lambda _: web_proxy.way()) as client,
    ):
        with pytest.raises(UpstreamUnavailableError, match="cannot connect to upstream") as told:
            await client.send(request(9, scheme="https"))

    assert (told.value.phase, told.value.sent) == (Phase.CONNECT, False)
    assert str(told.value) == "cannot connect to upstream 'up': no way through the web proxy"
    assert words is None or words in told.value.detail


async def test_a_web_proxy_that_is_away_is_named(kind, trust):
    async with TunnelProxy(9) as web_proxy:
        way = web_proxy.way()
    async with opened(kind, ssl_context=trust, web_proxy_of=lambda _: way) as client:
        with pytest.raises(UpstreamUnavailableError) as told:
            await client.send(request(9, scheme="https"))

    assert str(told.value).endswith("'up': no way through the web proxy")
    assert str(way.port) in told.value.detail
    assert not told.value.sent


async def test_a_web_proxy_that_says_nothing_is_given_up(kind, trust):
    limits = ClientLimits(connect_s=0.05)
    # What is no head yet keeps it waiting.
    async with (
        SilentProxy(9) as web_proxy,
        opened(kind, limits, ssl_context=trust, web_proxy_of=lambda _: web_proxy.way()) as client,
    ):
        with pytest.raises(UpstreamUnavailableError) as told:
            await client.send(request(9, scheme="https"))

    assert (told.value.cause, told.value.sent) == ("timeout", False)


async def test_the_name_in_the_certificate_is_the_upstreams(kind, certificate):
    # It is not trusted, whoever led there.
    async with tls_upstream(certificate) as server:
        port = server.sockets[0].getsockname()[1]
        async with (
            TunnelProxy(port) as web_proxy,
            opened(kind, web_proxy_of=lambda _: web_proxy.way()) as client,
        ):
            with pytest.raises(UpstreamUnavailableError, match="certificate") as told:
                await client.send(request(port, scheme="https"))

    assert not told.value.sent


class SilentProxy(TunnelProxy):
    """Takes requests, and answers none."""

    async def _serve(self, reader, writer):
        self._writers.append(writer)
        await reader.read()
