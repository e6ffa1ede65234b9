"""Messages between the processes that share the file: datagrams in a folder beside it.

Each process that listens has a socket there; who publishes sends to all others. A socket
whose process is gone refuses, and is taken away by whoever meets it first.
"""

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from proxy.core.chunks import chunked
from proxy.core.ids import JobId

MESSAGE_JOBS: Final = 500
"""Some 18 KB: a datagram is whole or not at all, and the system bounds it at 200 KB."""

MESSAGE_BYTES: Final = 64 * 1024
MESSAGES_AT_ONCE: Final = 100
"""Read before others of the event loop have their turn."""

MAX_NAME_BYTES: Final = 107
"""The longest name that a socket may have (unix(7), `sun_path`)."""


class SqliteWakeups:
    """The processes of one machine."""

    def __init__(self, file: Path) -> None:
        folder = file.with_name(f"{file.name}.wake")
        self._own = folder / secrets.token_hex(4)
        # Where the name is too long there are no messages, and waiters poll.
        self._possible = len(os.fsencode(self._own)) <= MAX_NAME_BYTES
        self._listening: socket.socket | None = None
        self._sending: socket.socket | None = None

    def publish(self, job_ids: Sequence[JobId]) -> None:
        if not self._possible:
            return
        try:
            self._sending = self._sending or _datagrams()
        except OSError:
            # No more files may be open: whoever waits elsewhere polls.
            return
        others = list(self._others())
        if not others:
            return
        for chunk in chunked(job_ids, MESSAGE_JOBS):
            message = " ".join(chunk).encode()
            for other in others:
                _send(self._sending, message, other)

    def subscribe(self, on_change: Callable[[Sequence[JobId]], None]) -> None:
        if not self._possible:
            return
        with suppress(OSError):
            self._listen(on_change)

    def _listen(self, on_change: Callable[[Sequence[JobId]], None]) -> None:
        listening = _datagrams()
        try:
            self._own.parent.mkdir(mode=0o700, exist_ok=True)
            listening.bind(os.fspath(self._own))
        except OSError:
            # A folder that cannot be written, or a file system without sockets.
            listening.close()
            raise
        self._listening = listening
        asyncio.get_running_loop().add_reader(listening, _hear, listening, on_change)

    def close(self) -> None:
        """End the subscription."""
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None
            self._own.unlink(missing_ok=True)
            with suppress(OSError):
                # The last one takes the folder with it.
                self._own.parent.rmdir()
        if self._sending is not None:
            self._sending.close()
            self._sending = None

    def _others(self) -> Iterator[str]:
        with suppress(OSError), os.scandir(self._own.parent) as entries:
            for entry in entries:
                if entry.name != self._own.name:
                    yield entry.path


def _datagrams() -> socket.socket:
    one = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.setblocking(False)
    return one


def _send(sending: socket.socket, message: bytes, other: str) -> None:
    try:
        sending.sendto(message, other)
    except ConnectionRefusedError:
        # Its process is gone, and took no leave.
        with suppress(OSError):
            Path(other).unlink()
    except OSError:
        # Full, or gone this very moment: whoever waits there polls.
        return


def _hear(listening: socket.socket, on_change: Callable[[Sequence[JobId]], None]) -> None:
    for _ in range(MESSAGES_AT_ONCE):
        try:
            message = listening.recv(MESSAGE_BYTES)
        except OSError:
            return
        on_change([JobId(one) for one in message.decode("ascii", "replace").split()])
