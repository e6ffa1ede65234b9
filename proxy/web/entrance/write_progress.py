"""Whether a caller takes what was written to it."""

import asyncio
import struct
from contextlib import suppress
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Final, NamedTuple

_COUNT: Final = struct.Struct("i")


class Untaken(NamedTuple):
    """Bytes that were written to a caller and not acknowledged by it."""

    here: int
    """Those that the operating system has not taken from us yet."""

    in_system: int
    """Those that it has taken; 0 where it does not tell."""


class WriteProgress:
    """The progress of one caller, sampled now and then; a call costs nothing."""

    __slots__ = ("_moved_at", "_untaken")

    def __init__(self, *, since: float) -> None:
        self._untaken: Untaken | None = None
        self._moved_at = since

    def is_overdue(self, transport: asyncio.Transport | None, now: float, limit_s: float) -> bool:
        """Tell whether bytes have waited for longer than `limit_s` without any being taken."""
        untaken = untaken_of(transport) if transport is not None else None
        if untaken is None or untaken != self._untaken:
            self._untaken = untaken
            self._moved_at = now
        return now - self._moved_at > limit_s


def untaken_of(transport: asyncio.Transport) -> Untaken | None:
    """Return what the caller has yet to take; nothing if no bytes wait here for it."""
    here = transport.get_write_buffer_size()
    if not here:
        return None
    sock = transport.get_extra_info("socket")
    in_system = 0
    # For a moment after a TLS connection broke there is none.
    if sock is not None and sock.fileno() >= 0:
        # The system takes more from us only once a third of its send buffer, which may be
        # megabytes, is free. By our own count alone, a slow reader would look like none.
        with suppress(OSError):  # Not every system tells.
            (in_system,) = _COUNT.unpack(ioctl(sock.fileno(), TIOCOUTQ, bytes(_COUNT.size)))
    return Untaken(here, in_system)
