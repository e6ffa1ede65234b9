"""One HTTP exchange of the sandbox, whatever the vendor's dialect.

Handlers get a `Call` and return a `Reply`; they never touch the connection. So every fault that
concerns the connection (reset, truncation, stall) is applied here, to all endpoints alike.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pydantic_core
from aiohttp import web

from proxy.sandbox.faults import HttpFault
from proxy.sandbox.keys import KeyState

CHUNK_BYTES: Final = 262_144

Body = bytes | Path | AsyncGenerator[bytes, None]
"""Ready, in a file, or made on the way."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler may know of an exchange."""

    request: web.Request
    key: KeyState

    def argument(self, name: str) -> str | None:
        """Return a query parameter."""
        value: str | None = self.request.query.get(name)
        return value

    def part(self, name: str) -> str:
        """Return a segment of the path that the route names."""
        return self.request.match_info[name]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of a handler."""

    body: Body
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Call], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint of a dialect, in aiohttp's path syntax."""

    method: str
    path: str
    handler: Handler


class ApiError(Exception):
    """A refusal, in terms that every dialect can render in its own envelope."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        error_type: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.error_type = error_type


def json_reply(value: Any, *, status: int = 200) -> Reply:
    """Return a reply with a JSON body."""
    return Reply(pydantic_core.to_json(value, inf_nan_mode="constants"), status)


async def send(request: web.Request, reply: Reply, fault: HttpFault | None) -> web.StreamResponse:
    """Write a reply to the connection, with what the fault does to it."""
    action = fault.action if fault else None
    if action == "reset_after":
        await _exhaust(reply.body)
        return reset(request)
    if fault is not None and action in ("truncate", "stall"):
        return await _send_part(request, reply, fault)
    if isinstance(reply.body, bytes):
        return web.Response(
            body=reply.body,
            status=reply.status,
            headers=dict(reply.headers),
            content_type=reply.content_type,
        )
    response = _streaming(reply)
    # Closed at once when the caller leaves, so that a stream bills what it sent.
    with contextlib.suppress(ConnectionError):
        async with contextlib.aclosing(_chunks(reply.body)) as chunks:
            await response.prepare(request)
            async for chunk in chunks:
                await response.write(chunk)
            await response.write_eof()
    return response


def reset(request: web.Request) -> web.StreamResponse:
    """Drop the connection with a TCP reset; the returned response is never seen."""
    transport = request.transport
    if transport is not None:
        sock = transport.get_extra_info("socket")
        if sock is not None:
            # SO_LINGER with zero seconds turns the close into RST, which no client can take for
            # a complete answer.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response(status=500)


async def _send_part(request: web.Request, reply: Reply, fault: HttpFault) -> web.StreamResponse:
    response = _streaming(reply)
    if isinstance(reply.body, bytes):
        response.content_length = len(reply.body)
    await response.prepare(request)
    left = fault.after_bytes
    async for chunk in _chunks(reply.body):
        if left > 0:
            await response.write(chunk[:left])
        left -= len(chunk)
    # Flushed before the cut: abort() drops what the kernel has not taken yet.
    await asyncio.sleep(0)
    if fault.action == "stall":
        # Until the caller leaves: the server cancels handlers of closed connections.
        await asyncio.Event().wait()
    if request.transport is not None:
        request.transport.close()
    return response


def _streaming(reply: Reply) -> web.StreamResponse:
    headers = {"Content-Type": reply.content_type, **reply.headers}
    response = web.StreamResponse(status=reply.status, headers=headers)
    if isinstance(reply.body, Path):
        response.content_length = reply.body.stat().st_size
    return response


async def _chunks(body: Body) -> AsyncGenerator[bytes, None]:
    if isinstance(body, bytes):
        yield body
    elif isinstance(body, Path):
        with body.open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield chunk
    else:
        async with contextlib.aclosing(body):
            async for chunk in body:
                yield chunk


async def _exhaust(body: Body) -> None:
    async for _ in _chunks(body):
        pass
