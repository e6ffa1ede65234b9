"""Two servers that half of the web runs on, and what each makes of a stream of requests."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.helpers.ports import free_port
from tests.helpers.raw_upstream import TIMEOUT_S, RawUpstream, replying
from tests.web.transparency.corpus import OK

Request = tuple[bytes, bytes, bytes]
"""Method, target and body, as a server saw them."""

Reader = Callable[[bytes], Awaitable[tuple[list[Request], bytes]]]
"""Gives a server a stream on a connection of its own, at whose end it hangs up; returns the
requests that it saw there, in order, and what it answered."""

_NODE = """
const http = require('node:http');
const tell = (what) => process.stdout.write(JSON.stringify(what) + '\\n');
const server = http.createServer({maxHeaderSize: 1 << 16}, (request, response) => {
  const pieces = [];
  request.on('data', (piece) => pieces.push(piece));
  request.on('end', () => {
    const body = Buffer.concat(pieces).toString('latin1');
    tell({method: request.method, target: request.url, body});
    response.end('ok');
  });
});
server.on('connection', (socket) => socket.on('close', () => tell({closed: true})));
server.listen(0, '127.0.0.1', () => tell({port: server.address().port}));
"""

_NGINX = """
daemon off; master_process off; worker_processes 1; pid {work}/nginx.pid;
error_log {work}/nginx.log crit; events {{ }}
http {{
  access_log off; underscores_in_headers on; ignore_invalid_headers off; merge_slashes off;
  client_header_buffer_size 64k; large_client_header_buffers 8 64k; client_max_body_size 0;
  client_body_temp_path {work}/body; proxy_temp_path {work}/proxy;
  fastcgi_temp_path {work}/f; uwsgi_temp_path {work}/u; scgi_temp_path {work}/s;
  server {{ listen 127.0.0.1:{port}; location / {{
    proxy_pass http://127.0.0.1:{upstream}; proxy_http_version 1.1;
  }} }}
}}
"""


def node() -> str | None:
    return shutil.which("node")


def nginx() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


@asynccontextmanager
async def reading_node() -> AsyncIterator[Reader]:
    """Run node, which tells of each request that it reads."""
    program = node()
    assert program is not None
    process = await asyncio.create_subprocess_exec(
        program, "-e", _NODE, stdout=asyncio.subprocess.PIPE, limit=1 << 24
    )
    assert process.stdout is not None
    told = process.stdout

    async def line() -> dict[str, str]:
        async with asyncio.timeout(TIMEOUT_S):
            found: dict[str, str] = json.loads(await told.readline())
        return found

    port = int((await line())["port"])

    async def read(stream: bytes) -> tuple[list[Request], bytes]:
        answer = await _play(port, stream)
        seen: list[Request] = []
        while "closed" not in (one := await line()):
            seen.append(_request(one["method"], one["target"], one["body"].encode("latin-1")))
        return seen, answer

    try:
        yield read
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def reading_nginx(work: Path) -> AsyncIterator[Reader]:
    """Run nginx before an upstream that notes what nginx makes of each request."""
    program = nginx()
    assert program is not None
    async with RawUpstream(replying(OK, close=True)) as upstream:
        port = free_port()
        file = work / "nginx.conf"
        file.write_text(_NGINX.format(work=work, port=port, upstream=upstream.port))
        process = await asyncio.create_subprocess_exec(
            program, "-p", str(work), "-e", f"{work}/nginx.log", "-c", str(file)
        )
        await _listens(port)

        async def read(stream: bytes) -> tuple[list[Request], bytes]:
            upstream.connections.clear()
            answer = await _play(port, stream)
            seen = []
            for message in upstream.requests:
                method, target, _ = message.start_line.split(b" ", 2)
                seen.append((method, target, message.body))
            return seen, answer

        try:
            yield read
        finally:
            process.kill()
            await process.wait()


def _request(method: str, target: str, body: bytes) -> Request:
    return method.encode("latin-1"), target.encode("latin-1"), body


async def _play(port: int, stream: bytes) -> bytes:
    """Send a stream whole, and return all that comes back until the server hangs up.

    Its last request asks for that: nginx takes the end of a stream for a caller who left.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    async with asyncio.timeout(TIMEOUT_S):
        try:
            writer.write(stream)
            return await reader.read()
        except ConnectionError:
            # It refused the stream while that was still being sent.
            return b"HTTP/1.1 400 "
        finally:
            writer.close()


async def _listens(port: int) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return
