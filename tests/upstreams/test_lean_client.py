"""What the lean client does beyond what both do: sending, and sending again."""

import pytest

from proxy.ports.upstream import UpstreamUnavailableError
from proxy.upstreams.lean_client import LeanClient
from tests.helpers.raw_upstream import RawUpstream, replying
from tests.upstreams.clients import OK, opened, read_all, request


async def test_a_head_that_is_written_already_is_sent_as_it_is():
    head = b"GET /y HTTP/1.1\r\nhost:x\r\n\r\n"
    async with RawUpstream(replying(OK)) as upstream, opened(LeanClient) as client:
        await read_all(await client.send(request(upstream.port, head=head)))

        assert upstream.requests[0].head == head


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 3_000_000])
async def test_a_whole_body_of_any_size_arrives(size):
    headers = ((b"Content-Length", b"%d" % size),)
    async with RawUpstream(replying(OK)) as upstream, opened(LeanClient) as client:
        sent = request(upstream.port, method="POST", headers=headers, body=b"x" * size)
        await read_all(await client.send(sent))

        assert upstream.requests[0].body == b"x" * size


@pytest.mark.parametrize(
    ("method", "body", "times"),
    [
        ("GET", None, 2),
        ("HEAD", None, 2),
        ("POST", b"{}", 1),
        ("DELETE", None, 1),
        ("GET", b"x", 1),
    ],
)
async def test_only_a_bodyless_safe_call_is_sent_again_and_once(method, body, times):
    """On a kept connection that dies under the call, with nothing answered."""

    async def script(connection):
        await connection.request()
        if connection.number == 0:
            await connection.send(OK)
            await connection.request()

    async with RawUpstream(script) as upstream, opened(LeanClient) as client:
        await read_all(await client.send(request(upstream.port)))
        length = ((b"Content-Length", b"%d" % len(body)),) if body else ()

        with pytest.raises(UpstreamUnavailableError) as caught:
            await client.send(request(upstream.port, method=method, headers=length, body=body))

        assert caught.value.sent
        assert len(upstream.requests) == 1 + times


async def test_a_call_whose_answer_had_begun_is_not_sent_again():
    async def script(connection):
        await connection.request()
        await connection.send(OK)
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")

    async with RawUpstream(script) as upstream, opened(LeanClient) as client:
        await read_all(await client.send(request(upstream.port)))
        answer = await client.send(request(upstream.port))
        with pytest.raises(UpstreamUnavailableError):
            await read_all(answer)

        assert len(upstream.requests) == 2


@pytest.mark.parametrize(
    ("reply", "connections"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 1),
        (b"HTTP/1.1 204 No\r\n\r\n", 1),
        (b"HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n", 1),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 2),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 2),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nmore", 2),
    ],
)
async def test_a_connection_is_kept_where_both_sides_know_where_they_are(reply, connections):
    async with RawUpstream(replying(reply)) as upstream, opened(LeanClient) as client:
        for _ in range(2):
            await read_all(await client.send(request(upstream.port)))

        assert len(upstream.connections) == connections


async def test_a_head_without_its_body_leaves_the_connection_usable():
    async with (
        RawUpstream(replying(b"HTTP/1.1 200 OK\r\n\r\n")) as upstream,
        opened(LeanClient) as client,
    ):
        for _ in range(2):
            await read_all(await client.send(request(upstream.port, method="HEAD")))

        assert len(upstream.connections) == 1
