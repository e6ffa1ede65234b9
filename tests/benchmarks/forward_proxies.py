"""The proxies that are compared, each a program of its own:

    python -m tests.benchmarks.forward_proxies KIND PORT UPSTREAM_URL [CA_FILE]

`naive` is the reverse proxy that everybody writes first. `tls` is no proxy but an
upstream: CA_FILE is its certificate. Ours is not here: it is measured as it is
installed, by its own command.
"""

import asyncio
import ssl
import sys
from typing import Final

import aiohttp
from aiohttp import web

HOP_BY_HOP: Final = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "host"}
ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1400\r\n\r\n"
    + b" " * 1400
)


async def serve_naive(port: int, upstream: str, context: ssl.SSLContext | None) -> None:
    async with aiohttp.ClientSession() as session:

        async def forward(request: web.Request) -> web.StreamResponse:
            kept = {k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP}
            async with session.request(
                request.method,
                upstream + request.path_qs,
                headers=kept,
                data=request.content,
                ssl=context or True,
            ) as answer:
                back = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP}
                response = web.StreamResponse(status=answer.status, headers=back)
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                await response.write_eof()
                return response

        application = web.Application(client_max_size=1 << 28)
        application.router.add_route("*", "/{path:.*}", forward)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
        await asyncio.Event().wait()


class TlsUpstream(asyncio.Protocol):
    """Answers each request, of which it knows only where a plain body or chunks end."""

    def __init__(self) -> None:
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, found, body = self._read.partition(b"\r\n\r\n")
        if not found:
            return
        length = head.lower().partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]
        whole = len(body) >= int(length) if length else body.endswith(b"0\r\n\r\n")
        if whole:
            self._read = b""
            self._transport.write(ANSWER)


async def serve_tls(port: int, certificate: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(TlsUpstream, "127.0.0.1", port, ssl=context, backlog=4096)
    await server.serve_forever()


def main() -> None:
    kind, port, upstream, ca_file = (*sys.argv[1:], "")[:4]
    if kind == "tls":
        asyncio.run(serve_tls(int(port), ca_file))
        return
    context = ssl.create_default_context(cafile=ca_file) if ca_file else None
    asyncio.run(serve_naive(int(port), upstream, context))


if __name__ == "__main__":
    main()
