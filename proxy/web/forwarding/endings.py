"""How a caller's connection ends: in order after a whole answer, and visibly otherwise.

A body with a length or in chunks tells by itself that it broke off. One that ends with its
connection does not: however early, an orderly end makes it look whole.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Final, cast

_LINGER: Final = struct.Struct("ii")
_RESET: Final = _LINGER.pack(1, 0)
"""`SO_LINGER` on, for zero seconds: closing sends RST instead of FIN."""
_FINISH: Final = _LINGER.pack(0, 0)


def cut(transport: asyncio.Transport | None, *, until_close: bool) -> None:
    """End a caller's connection so that the answer cannot be taken for whole."""
    if transport is None:
        return
    if until_close:
        # Closing is how this body would end well: only a reset tells that it did not.
        reset_on_close(transport)
        if transport.get_extra_info("sslcontext") is not None:
            # Over TLS, closing says goodbye before: that alone is a good end.
            transport.abort()
    transport.close()


def reset_on_close(transport: asyncio.BaseTransport | None) -> None:
    """Have closing `transport` reset the connection instead of ending it in order.

    Used while an answer is sent that ends with its connection: nothing that ends the connection
    early, not even the end of this process, may look like the end of the answer.
    """
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def hold_open(transport: asyncio.BaseTransport | None) -> None:
    """Begin an answer that ends with its connection; `finish_on_close` lets it end.

    That is right as soon as writing is not paused, which it is from here on while
    anything waits in this process: what the system has not taken yet may get lost.
    """
    reset_on_close(transport)
    if transport is not None:
        # A plain one pauses above its limit, one of TLS as soon as it is reached: at zero
        # that would be with nothing to wait for.
        least = 0 if transport.get_extra_info("sslcontext") is None else 1
        cast("asyncio.WriteTransport", transport).set_write_buffer_limits(high=least)


def finish_on_close(transport: asyncio.BaseTransport | None) -> None:
    """Let the peer be hung up on as ever once `transport` is closed: all was written."""
    if transport is not None and not transport.is_closing():
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _FINISH)


def end_now(transport: asyncio.Transport | None) -> None:
    """Tell the peer that nothing more comes, where that can be done without closing.

    For an answer that ends with its connection and came before the call was here to its
    end: what is left of that is read for a while before the connection is closed.
    """
    if transport is not None and not transport.is_closing() and transport.can_write_eof():
        with suppress(OSError):  # It reset the connection, and the loop has not read that yet.
            transport.write_eof()


def resets_on_close(transport: asyncio.BaseTransport | None) -> bool:
    """Tell whether an answer goes on that ends with this connection."""
    if transport is None or transport.is_closing():
        return False
    sock = transport.get_extra_info("socket")
    found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.size)
    return bool(_LINGER.unpack(found)[0])
