"""The connection of a caller, as a call that takes a shortcut needs it."""

import asyncio
from typing import Final, Protocol

METHOD: Final = "POST"
"""The method of all calls that take a shortcut. Others are few, and some may be sent twice."""


class Downstream(Protocol):
    """One caller's connection, while a call of it takes a shortcut."""

    transport: asyncio.Transport | None

    @property
    def writing_paused(self) -> bool:
        """Whether the caller takes no more for now."""
        ...

    @property
    def is_ending(self) -> bool:
        """Whether no call may follow the one that is on its way."""
        ...

    async def flush(self, data: bytes) -> bool:
        """Write to the caller; tell whether the operating system has taken all of it."""
        ...

    def call_ended(self, *, keep_alive: bool) -> None:
        """Learn that the answer is written, and whether another call may follow."""
        ...

    def call_failed(self, exc: Exception) -> None:
        """Learn of a bug that left the call without an answer."""
        ...


class ShortcutCall(Protocol):
    """A call that takes a shortcut, as the connection of its caller sees it."""

    def news(self) -> None:
        """Go on: the caller takes more."""
        ...

    def caller_left(self) -> None:
        """End the call: nobody is there to be answered."""
        ...
