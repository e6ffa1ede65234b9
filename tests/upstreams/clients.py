"""Clients, calls and a TLS upstream for tests of the upstream clients."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from proxy.core.upstream import Upstream
from proxy.ports.upstream import ClientLimits, UpstreamRequest, UpstreamResponse
from proxy.upstreams.aiohttp_client import AiohttpClient
from proxy.upstreams.lean_client import LeanClient

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

CLIENTS: dict[str, type[AiohttpClient] | type[LeanClient]] = {
    "aiohttp": AiohttpClient,
    "lean": LeanClient,
}


@asynccontextmanager
async def opened(
    kind: type[Any], limits: ClientLimits | None = None, **options: Any
) -> AsyncIterator[Any]:
    async with asyncio.TaskGroup() as tasks:
        client = kind(tasks, limits, **options)
        try:
            yield client
        finally:
            await client.aclose()


def request(port: int, *, scheme: str = "http", **fields: Any) -> UpstreamRequest:
    upstream = Upstream.parse(
        "up", "openai", f"{scheme}://{fields.pop('host', '127.0.0.1')}:{port}"
    )
    return UpstreamRequest(
        upstream=upstream,
        method=fields.pop("method", "GET"),
        target="/x",
        headers=((b"Host", upstream.host_header), *fields.pop("headers", ())),
        **fields,
    )


async def read_all(response: UpstreamResponse) -> bytes:
    data = response.take_ready()
    while not response.at_end:
        data += await response.next_chunk()
    return data


@asynccontextmanager
async def tls_upstream(certificate: Path) -> AsyncIterator[asyncio.Server]:
    """Answer every call over TLS; `server.ssl` counts its handshakes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(OK)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server
