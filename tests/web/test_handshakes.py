"""Who does not finish a TLS handshake counts as connected, and only for a while."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import web

from proxy.web.certificates import Certificate
from proxy.web.entrance.connection import CallerConnection
from proxy.web.entrance.server import CallerBounds, DataServer
from proxy.web.handshakes import Handshakes, SecureSite
from tests.helpers.certificates import write_certificate
from tests.helpers.raw_upstream import RawCaller, wait_until

CALL = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
END = b"\r\n\r\nhello"


class Listener:
    """A server of "hello" that speaks TLS, and what became of its connections."""

    def __init__(self, certificate: Path, **terms: float) -> None:
        self.refused = 0
        self._file = certificate
        self._terms = terms

    @asynccontextmanager
    async def listening(self, bounds: CallerBounds | None = None) -> AsyncIterator["Listener"]:
        async with asyncio.TaskGroup() as tasks:
            self.server = DataServer(self._hello, bounds)
            self.runner = web.ServerRunner(self.server, shutdown_timeout=0.2)
            await self.runner.setup()
            context = Certificate(self._file, self._file).context
            terms = Handshakes(context, tasks, **self._terms)  # type: ignore[arg-type]
            self.site = SecureSite(self.runner, "127.0.0.1", 0, terms=terms, on_refused=self._count)
            await self.site.start()
            self.port = self.runner.addresses[0][1]
            try:
                yield self
            finally:
                await self.runner.cleanup()

    async def _hello(self, request: web.BaseRequest) -> web.Response:
        assert request.secure
        return web.Response(text="hello")

    def _count(self) -> None:
        self.refused += 1

    async def caller(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=trusting())


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def shaken(caller: RawCaller) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    """Go through a handshake, and do not yet send what ends it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting().wrap_bio(incoming, outgoing)
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            await caller.send(outgoing.read())
            incoming.write(await caller.reader.read(1 << 16))
        else:
            return tls, incoming, outgoing


@pytest.fixture
def certificate(tmp_path):
    return write_certificate(tmp_path / "pem")


async def test_calls_are_served_one_after_the_other(certificate):
    async with Listener(certificate).listening() as listener:
        reader, writer = await listener.caller()
        for _ in range(2):
            writer.write(CALL)
            assert (await reader.readuntil(END)).startswith(b"HTTP/1.1 200 OK")
        writer.close()

        assert listener.site.pending == 0


async def test_a_call_that_comes_in_one_piece_with_the_end_of_the_handshake_is_served(certificate):
    async with Listener(certificate).listening() as listener, RawCaller(listener.port) as caller:
        tls, incoming, outgoing = await shaken(caller)
        tls.write(CALL)
        await caller.send(outgoing.read())

        answer = b""
        while not answer.endswith(END):
            incoming.write(await caller.reader.read(1 << 16))
            try:
                answer += tls.read(1 << 16)
            except ssl.SSLWantReadError:
                continue

    assert answer.startswith(b"HTTP/1.1 200 OK")


async def test_the_silent_are_counted_from_the_moment_they_are_accepted(certificate):
    async with (
        Listener(certificate, max_connections=2).listening() as listener,
        RawCaller(listener.port),
    ):
        _, writer = await listener.caller()
        await wait_until(lambda: listener.site.pending == 1)

        async with RawCaller(listener.port) as third:
            with suppress(ConnectionResetError):
                assert await third.reader.read() == b""

        assert listener.refused == 1
        writer.close()


async def test_a_handshake_may_take_only_so_long(certificate):
    async with (
        Listener(certificate, limit_s=0.2).listening() as listener,
        RawCaller(listener.port) as silent,
    ):
        await wait_until(lambda: listener.site.pending == 1)

        assert await silent.reader.read() == b""

        await wait_until(lambda: listener.site.pending == 0)
        assert not listener.server.connections


@pytest.mark.parametrize("end", ["it leaves", "no TLS", "no certificate wanted"])
async def test_a_handshake_that_fails_is_counted_no_longer(certificate, end):
    async with Listener(certificate, max_connections=1).listening() as listener:
        async with RawCaller(listener.port) as failing:
            await wait_until(lambda: listener.site.pending == 1)
            if end == "no TLS":
                await failing.send(CALL)
            elif end == "no certificate wanted":
                # A record of an alert: `certificate_unknown`, fatal.
                await failing.send(b"\x15\x03\x01\x00\x02\x02\x2e")
            if end != "it leaves":
                await failing.reader.read()
        await wait_until(lambda: listener.site.pending == 0)

        reader, writer = await listener.caller()
        writer.write(CALL)
        assert (await reader.readuntil(END)).startswith(b"HTTP/1.1 200 OK")
        writer.close()

    assert listener.refused == 0


async def test_the_time_for_a_head_begins_before_the_handshake(certificate):
    async with Listener(certificate).listening() as listener, RawCaller(listener.port) as caller:
        await wait_until(lambda: listener.site.pending == 1)
        time = asyncio.get_running_loop().time
        begun = time()
        await wait_until(lambda: time() > begun)
        later = time()
        _, _, outgoing = await shaken(caller)
        await caller.send(outgoing.read())
        await wait_until(lambda: listener.server.connections)
        (connection,) = listener.server.connections
        assert isinstance(connection, CallerConnection)

        assert connection.is_overdue(later + 60, 60)


async def test_the_end_of_a_listener_gives_up_handshakes_and_not_calls(certificate):
    async with Listener(certificate).listening() as listener:
        reader, writer = await listener.caller()
        async with RawCaller(listener.port) as silent:
            await wait_until(lambda: listener.site.pending == 1)
            await listener.site.stop()

            assert await silent.reader.read() == b""

        await wait_until(lambda: listener.site.pending == 0)
        writer.write(CALL)
        assert (await reader.readuntil(END)).startswith(b"HTTP/1.1 200 OK")
        writer.close()
        with pytest.raises(ConnectionRefusedError), socket.socket() as late:
            late.connect(("127.0.0.1", listener.port))
