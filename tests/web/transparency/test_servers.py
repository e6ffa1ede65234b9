"""nginx and node see the same requests in what is forwarded as we do, or refuse them.

What a proxy forwards is read by a parser that it does not know. Where that finds
another end of a request, or another target, requests are smuggled; so everything of
the corpus goes through the proxy, and the very bytes that came out are given to both.
"""

import pytest

from tests.helpers.raw_upstream import RawCaller, RawConnection, RawUpstream, replying
from tests.web.transparency.corpus import CORPUS, OK, Row, head
from tests.web.transparency.harness import CLIENTS, running_proxy
from tests.web.transparency.servers import (
    Reader,
    Request,
    nginx,
    node,
    reading_nginx,
    reading_node,
)
from tests.web.transparency.test_reading import prefixed

LAST = (b"GET", b"/the-last", b"")
"""A request after all others of a connection: who reads it has found all their ends."""

REFUSED_BY_NGINX = {"an encoded NUL", "broken escapes", "encoded dot segments"}
"""It decodes and resolves each target, and takes none that has no name or leads outside."""


async def forwarded(client: str, row: Row) -> RawConnection:
    """Forward a call twice over the same connections; return the one that came out."""
    bodiless = row.request[0].startswith(b"HEAD ")
    async with (
        RawUpstream(replying(OK)) as upstream,
        running_proxy(upstream.port, CLIENTS[client]) as proxy,
        RawCaller(proxy.port) as caller,
    ):
        for _ in range(2):
            await caller.send(*prefixed(row.request))
            await caller.response(bodiless=bodiless)
        return next(one for one in upstream.connections if one.requests)


async def all_read_alike(client: str, read: Reader) -> list[str]:
    """Return the rows of the corpus that the server refused."""
    refused = []
    for row in CORPUS:
        connection = await forwarded(client, row)
        expected: list[Request] = []
        for message in connection.requests:
            method, target, _ = message.start_line.split(b" ", 2)
            expected.append((method, target, message.body))
        expected.append(LAST)
        stream = b"".join(message.head + message.framed_body for message in connection.requests)
        stream += head(*LAST[:2], b"Connection: close")

        seen, answer = await read(stream)

        assert seen == expected[: len(seen)], row.name
        if len(seen) < len(expected):
            assert b"HTTP/1.1 4" in answer, row.name
            refused.append(row.name)
    return refused


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.skipif(node() is None, reason="node is not installed")
async def test_node_reads_what_is_forwarded_as_it_was_meant(client):
    async with reading_node() as read:
        assert await all_read_alike(client, read) == []


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.skipif(nginx() is None, reason="nginx is not installed")
async def test_nginx_reads_what_is_forwarded_as_it_was_meant(client, tmp_path):
    async with reading_nginx(tmp_path) as read:
        assert set(await all_read_alike(client, read)) == REFUSED_BY_NGINX
