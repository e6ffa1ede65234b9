"""The way of an upload's bytes from an async source to a thread that sends them.

Nothing is spooled: the source is read as fast as the thread sends, a few chunks
ahead. The length is told first, as a seekable file would, so that the HTTP client
can announce it; a source that then gives fewer or more bytes breaks the upload off
before its end, so that no provider takes a file that is not whole.
"""

import asyncio
import io
import os
import queue
from collections.abc import AsyncIterator
from typing import Final

from proxy.providers.worker import AbortedError

CHUNKS_AHEAD: Final = 4
"""Chunks of about 1 MB: enough that neither side waits for the other's every step."""


class WrongLengthError(Exception):
    """The source gave another number of bytes than was announced."""


class UploadBody(io.RawIOBase):
    """A file that is read in one thread and filled by the event loop of another."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length
        self._loop = asyncio.get_running_loop()
        self._free = asyncio.Semaphore(CHUNKS_AHEAD)
        self._filled: queue.SimpleQueue[bytes | AbortedError | None] = queue.SimpleQueue()
        self._chunk = memoryview(b"")
        self._taken = 0
        """Bytes of all chunks taken from the queue so far."""
        self._is_aborted = False

    async def fill(self, source: AsyncIterator[bytes]) -> None:
        """Hand over all of `source`, waiting while the thread has not caught up."""
        async for chunk in source:
            if chunk:
                await self._free.acquire()
                self._filled.put(chunk)
        self._filled.put(None)

    def abort(self) -> None:
        """Make every further read fail, also one that waits now; from any thread."""
        self._is_aborted = True
        self._filled.put(AbortedError())

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, waiting for them; empty after the last.

        Raises:
            WrongLengthError: before the last byte is handed out.
            AbortedError: after `abort`.
        """
        assert size > 0, "the whole is never read at once"
        if self._is_aborted:
            raise AbortedError
        if not self._chunk and self._taken < self._length:
            self._take()
        part, self._chunk = self._chunk[:size], self._chunk[size:]
        return bytes(part)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._taken - len(self._chunk)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Tell the length when asked for the end; stay, when asked to stay.

        The client asks for the end and then goes back, before it reads.
        """
        if whence == os.SEEK_END and offset == 0:
            return self._length
        if whence == os.SEEK_SET and offset == self.tell():
            return offset
        raise io.UnsupportedOperation("an upload is read once, from its beginning")

    def _take(self) -> None:
        chunk = self._next()
        if chunk is None:
            raise WrongLengthError(f"{self._taken} bytes of {self._length}, then no more")
        self._taken += len(chunk)
        # With the last announced byte in hand, the source must have ended.
        if self._taken > self._length or (self._taken == self._length and self._next() is not None):
            raise WrongLengthError(f"more than {self._length} bytes")
        self._chunk = memoryview(chunk)

    def _next(self) -> bytes | None:
        chunk = self._filled.get()
        if isinstance(chunk, AbortedError):
            raise chunk
        if chunk is not None:
            self._loop.call_soon_threadsafe(self._free.release)
        return chunk
