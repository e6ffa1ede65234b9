"""Whoever connects to the operators' listener keeps nobody out, and uses no files up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from proxy.web.operators.server import CONNECTIONS_MAX, OperatorsRunner
from tests.helpers.raw_upstream import TIMEOUT_S, RawCaller, wait_until

PROBE = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
SLOW = b"POST /login HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[web.Server, int]]:
    async def live(_request: web.Request) -> web.Response:
        return web.Response(text="live")

    async def login(request: web.Request) -> web.Response:
        return web.Response(text=await request.text())

    application = web.Application()
    application.router.add_get("/livez", live)
    application.router.add_post("/login", login)
    runner = OperatorsRunner(application, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    assert runner.server is not None
    try:
        yield runner.server, runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def test_of_those_who_are_silent_the_first_is_cut():
    async with listening() as (server, port), RawCaller(port) as scraper:
        await scraper.send(SLOW)
        await wait_until(lambda: server.requests_count, "the scraper's call")
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        async with RawCaller(port) as probe:
            await probe.send(PROBE)

            assert (await probe.response()).body == b"live"
            await wait_until(lambda: len(server.connections) <= CONNECTIONS_MAX, "the cuts")
            assert await ends(silent[0][0])
            assert not silent[-1][0].at_eof()
            # Whoever is being served is not cut as long as others are not.
            await scraper.send(b"a" * 9)
            assert (await scraper.response()).body == b"a" * 9
        for _, writer in silent:
            writer.close()


async def test_calls_that_come_to_no_end_keep_no_probe_out():
    async with listening() as (server, port):
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS_MAX)]
        for _, writer in slow:
            writer.write(SLOW)
        await wait_until(lambda: server.requests_count == CONNECTIONS_MAX, "their calls")
        async with RawCaller(port) as probe:
            await probe.send(PROBE)

            assert (await probe.response()).body == b"live"
            assert await ends(slow[0][0])
        for _, writer in slow:
            writer.close()


async def ends(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(TIMEOUT_S):
        try:
            return await reader.read(1) == b""
        except ConnectionError:
            return True
