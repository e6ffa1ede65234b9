"""A real upstream, the proxy before it and a caller, and what tests of the relay ask of them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from proxy.ports.upstream import UpstreamUnavailableError
from proxy.web.forwarding.relay import Forwarded
from tests.helpers.raw_upstream import RawCaller, RawConnection, RawUpstream, Script, wait_until
from tests.web.transparency.harness import ClientFactory, RunningProxy, running_proxy

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /up/v1/x HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /up/v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
CLOSE_HEAD = b"HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\n"

MIB = 1 << 20
# What two loopback connections may hold in kernel buffers (tcp_rmem and tcp_wmem
# reach 6 and 4 MiB each), and the proxy's own few hundred KiB.
HELD_AT_MOST = 24 * MIB

Stage = tuple[RawUpstream, RunningProxy, RawCaller]


@asynccontextmanager
async def stage(script: Script, factory: ClientFactory, **options: Any) -> AsyncIterator[Stage]:
    """An upstream, the proxy before it, and a caller connected to that."""
    async with (
        RawUpstream(script) as upstream,
        running_proxy(upstream.port, factory, **options) as proxy,
        RawCaller(proxy.port) as caller,
    ):
        yield upstream, proxy, caller


async def silent(connection: RawConnection) -> None:
    await connection.request()
    await connection.wait_closed_by_peer()


async def one_record(proxy: RunningProxy) -> Forwarded:
    await wait_until(lambda: proxy.done, "the record of the call")
    assert len(proxy.done) == 1
    return proxy.done[0]


def failure(record: Forwarded) -> UpstreamUnavailableError:
    assert record.error is not None
    return record.error


async def stalled(progress: Callable[[], int]) -> None:
    """Wait until the progress stands still, after having begun.

    Nothing tells that bytes stopped moving through two kernels' worth of
    buffers but that they do not move.
    """
    last, still = 0, 0
    while still < 20:
        await asyncio.sleep(0.01)
        still = still + 1 if progress() == last != 0 else 0
        last = progress()
