"""Every awkward call of the corpus, direct and proxied, compared byte by byte.

Compared are: the head that arrived upstream, field by field in order; its body
and framing; all informational answers; the final head, body, framing, and whether
it ended well. Left out is what belongs to a connection, and whitespace around
values, which is not part of them (RFC 9112, section 5.1).
"""

import asyncio
from dataclasses import dataclass, replace

import pytest

from tests.helpers.raw_upstream import (
    TIMEOUT_S,
    Message,
    RawCaller,
    RawConnection,
    RawUpstream,
)
from tests.web.transparency.corpus import CORPUS, Row
from tests.web.transparency.harness import CLIENTS, running_proxy

HOP_BY_HOP = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade"}


@dataclass(frozen=True)
class Seen:
    """What one exchange looked like from its two ends."""

    upstream: Message
    host: bytes | None
    informational: list[bytes]
    answer: Message


@pytest.mark.parametrize(
    ("client", "tapped"),
    [*((client, False) for client in CLIENTS), ("lean", True)],
    ids=[*CLIENTS, "lean-recorded"],
)
@pytest.mark.parametrize("row", CORPUS, ids=lambda row: row.name.replace(" ", "_"))
async def test_a_proxied_call_is_the_same_as_a_direct_one(row, client, tapped):
    async with RawUpstream(_play(row)) as upstream:
        direct = await _exchange(upstream, upstream.port, row.request)
        async with running_proxy(upstream.port, CLIENTS[client], tapped=tapped) as proxy:
            proxied = await _exchange(upstream, proxy.port, _prefixed(row.request))

        assert proxied.host == upstream.authority
        if client in row.differs_with:
            # Still a difference? Then all but the trailers must be the same.
            assert _trailers(proxied) != _trailers(direct)
            direct, proxied = _without_trailers(direct), _without_trailers(proxied)
        assert _comparable(proxied.upstream) == _comparable(direct.upstream)
        assert proxied.informational == direct.informational
        assert _comparable(proxied.answer) == _comparable(direct.answer)


def test_the_corpus_is_large_and_its_known_differences_are_few():
    assert len(CORPUS) >= 60
    assert len({row.name for row in CORPUS}) == len(CORPUS)
    assert sum(row.known_difference is not None for row in CORPUS) <= 2
    assert sum("lean" in row.differs_with for row in CORPUS) == 1
    assert all(bool(row.differs_with) == bool(row.known_difference) for row in CORPUS)


def _play(row: Row):
    async def script(connection: RawConnection) -> None:
        while True:
            await connection.request()
            for piece in row.reply:
                await connection.send(piece)
                # Each segment is a read of its own at the other end, as far as
                # loopback allows.
                await asyncio.sleep(0)
            if row.close:
                return

    return script


async def _exchange(upstream: RawUpstream, port: int, request: tuple[bytes, ...]) -> Seen:
    before = len(upstream.requests)
    async with RawCaller(port) as caller, asyncio.timeout(TIMEOUT_S):
        for piece in request:
            await caller.send(piece)
            await asyncio.sleep(0)
        informational = []
        while True:
            answer = await caller.response(bodiless=request[0].startswith(b"HEAD "))
            if not answer.head.startswith(b"HTTP/1.1 1"):
                break
            informational.append(answer.head)
    received = upstream.requests[before]
    assert len(upstream.requests) == before + 1
    return Seen(received, received.value(b"host"), informational, answer)


def _prefixed(request: tuple[bytes, ...]) -> tuple[bytes, ...]:
    method, _, rest = request[0].partition(b" ")
    return (method + b" /up" + rest, *request[1:])


def _comparable(message: Message) -> tuple[object, ...]:
    fields = [
        (name, value)
        for name, value in message.fields
        if name.lower() not in HOP_BY_HOP | {b"host"}
    ]
    line = message.start_line.replace(b"HTTP/1.0", b"HTTP/1.1")
    return line, fields, message.body, message.framing, message.complete, message.trailers


def _trailers(seen: Seen) -> tuple[bytes, bytes]:
    return seen.upstream.trailers, seen.answer.trailers


def _without_trailers(seen: Seen) -> Seen:
    return replace(
        seen,
        upstream=replace(seen.upstream, trailers=b""),
        answer=replace(seen.answer, trailers=b""),
    )
