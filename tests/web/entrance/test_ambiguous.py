"""What could be read in two ways reaches nobody, and never the call of somebody else."""

import pytest

from tests.helpers.raw_upstream import RawCaller, RawConnection, RawUpstream, replying, wait_until
from tests.web.transparency.corpus import OK
from tests.web.transparency.harness import CLIENTS, running_proxy

CHUNKS = b"3\r\nabc\r\n0\r\n\r\n"


def call(*fields: bytes, method: bytes = b"POST", version: bytes = b"HTTP/1.1") -> bytes:
    lines = (method + b" /up/v1/x " + version, b"Host: a", *fields)
    return b"\r\n".join(lines) + b"\r\n\r\n"


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (call(b"Content-Length: 18446744073709551615"), b"413"),
        (call(b"Content-Length: 0000000000000003") + b"abc", b"413"),
        (call(b"Transfer-Encoding: gzip, chunked") + CHUNKS, b"501"),
        (call(b"Transfer-Encoding: ,chunked") + CHUNKS, b"501"),
        (call(b"Transfer-Encoding: identity, chunked") + CHUNKS, b"501"),
        (call(b"Transfer-Encoding: chunked", version=b"HTTP/1.0") + CHUNKS, b"400"),
        (call(method=b"CONNECT"), b"405"),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", b"405"),
        (call(version=b"HTTP/2.0"), b"505"),
        (call(version=b"HTTP/0.9"), b"505"),
    ],
)
async def test_it_is_refused_and_its_connection_ends(client, sent, status):
    async with (
        RawUpstream(replying(OK)) as upstream,
        running_proxy(upstream.port, CLIENTS[client]) as proxy,
        RawCaller(proxy.port) as caller,
    ):
        await caller.send(sent)
        answer = await caller.response()
        rest = await caller.reader.read()

    assert answer.start_line.split()[1] == status
    assert rest == b""
    assert not upstream.requests


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("coding", [b"chunked", b"CHUNKED", b"Chunked"])
async def test_chunks_are_taken_however_they_are_announced(client, coding):
    async with (
        RawUpstream(replying(OK)) as upstream,
        running_proxy(upstream.port, CLIENTS[client]) as proxy,
        RawCaller(proxy.port) as caller,
    ):
        await caller.send(call(b"Transfer-Encoding: " + coding) + CHUNKS)

        assert (await caller.response()).body == b"ok"
        assert [one.body for one in upstream.requests] == [b"abc"]


@pytest.mark.parametrize("client", CLIENTS)
async def test_the_next_call_is_no_part_of_one_that_never_ends(client):
    """Also at an upstream that answers by the head alone, as with a 401, and reads on."""
    bodies: list[bytes] = []

    async def script(connection: RawConnection) -> None:
        await connection.reader.readuntil(b"\r\n\r\n")
        await connection.send(OK)
        bodies.append(await connection.reader.read(65536))

    async with (
        RawUpstream(script) as upstream,
        running_proxy(upstream.port, CLIENTS[client]) as proxy,
        RawCaller(proxy.port) as attacker,
        RawCaller(proxy.port) as victim,
    ):
        await attacker.send(call(b"Content-Length: 18446744073709551615"))
        await attacker.response()
        await victim.send(call(b"Authorization: Bearer victim", b"Content-Length: 2") + b"{}")
        await victim.response()
        await wait_until(lambda: bodies, "the body")

    assert bodies == [b"{}"]
