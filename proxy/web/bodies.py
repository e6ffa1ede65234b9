"""Read the body of a request whole, in bounded time and memory."""

import asyncio
from typing import Final

from aiohttp import web
from aiohttp.http import HttpVersion11

from proxy.core.errors import CallerError

SILENCE_S: Final = 60.0
"""How long a body may pause; also nginx's `client_body_timeout`."""


async def read_body(request: web.BaseRequest, *, max_bytes: int) -> bytes:
    """Return the body as it was sent, never decompressed.

    Raises:
        CallerError: if it has more than `max_bytes`, or does not arrive whole.
    """
    asks = request.headers.get("Expect", "").lower() == "100-continue"
    if asks and request.version >= HttpVersion11 and request.transport:
        # The low-level server of aiohttp leaves that to the handler (RFC 9110, section 10.1.1).
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if request.content.is_eof() and request.content.exception() is None:
        # It came with the head, as small bodies do.
        body = request.content.read_nowait()
        _check_size(len(body), max_bytes)
        return body
    pieces: list[bytes] = []
    size = 0
    while piece := await _next_piece(request, so_far=size):
        size += len(piece)
        _check_size(size, max_bytes)
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise CallerError(f"the body has more than {max_bytes} bytes", code="request_too_large")


async def _next_piece(request: web.BaseRequest, *, so_far: int) -> bytes:
    try:
        async with asyncio.timeout(SILENCE_S):
            return await request.content.readany()
    except TimeoutError as exc:
        raise CallerError(
            f"the body did not arrive: after {so_far} bytes {SILENCE_S:.0f} s of silence",
            code="request_timeout",
            http_status=408,
        ) from exc
    except Exception as exc:
        # aiohttp fails a reader with whatever befell the connection or the
        # parser; all of it is the sender's doing.
        raise CallerError("the body of the call broke off", code="request_incomplete") from exc
