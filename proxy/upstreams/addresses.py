"""Names into addresses, looked up again every few connections.

Nothing is remembered for longer than it takes a burst of connections to open:
providers move their addresses about, and the system's resolver has a cache.
"""

import asyncio
import socket
from collections.abc import Sequence
from typing import Final

Address = tuple[int, int, int, str, tuple[object, ...]]
"""As `socket.getaddrinfo` returns it."""

_REMEMBERED_S: Final = 5.0


class Addresses:
    """Looks names up, each at most once at a time, in the loop's threads."""

    def __init__(self, *, remembered_s: float = _REMEMBERED_S) -> None:
        self._remembered_s = remembered_s
        self._known: dict[tuple[str, int], tuple[float, Sequence[Address]]] = {}
        self._underway: dict[tuple[str, int], asyncio.Future[Sequence[Address]]] = {}

    async def of(self, host: str, port: int) -> Sequence[Address]:
        """Return the addresses of a host, best first.

        Raises:
            OSError: if it has none, or no server of names answered.
        """
        key = (host, port)
        loop = asyncio.get_running_loop()
        found = self._known.get(key)
        if found is not None and loop.time() < found[0]:
            return found[1]
        asked = self._underway.get(key)
        if asked is None:
            asked = loop.run_in_executor(None, _look_up, host, port)
            self._underway[key] = asked
            asked.add_done_callback(lambda done: self._keep(key, done, loop.time()))
        # Others wait for the same answer: one who gives up must not end it.
        return await asyncio.shield(asked)

    def forget(self, host: str, port: int) -> None:
        """Look the host up again next time: it could not be connected to."""
        self._known.pop((host, port), None)

    def _keep(
        self, key: tuple[str, int], done: "asyncio.Future[Sequence[Address]]", now: float
    ) -> None:
        self._underway.pop(key, None)
        if not done.cancelled() and done.exception() is None:
            self._known[key] = (now + self._remembered_s, done.result())


def _look_up(host: str, port: int) -> Sequence[Address]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
