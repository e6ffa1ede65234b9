"""The least that the proxy's server could answer: it reads the body, and that is all.

Run as a program it prints its port and serves until it is killed.
"""

import asyncio

from aiohttp import web

from proxy.web.entrance.server import SERVER_OPTIONS, CallerBounds

BODY = b'{"id": "job_%s", "object": "deferrable.job", "status": "queued"%s}' % (
    b"0" * 28,
    b" " * 800,
)


async def answer(request: web.BaseRequest) -> web.StreamResponse:
    await request.read()
    return web.Response(status=202, body=BODY, content_type="application/json")


async def main() -> None:
    runner = web.ServerRunner(web.Server(answer, **SERVER_OPTIONS | CallerBounds().head_options))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
