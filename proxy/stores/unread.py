"""What cannot be read is left out where many are read, and told of once.

It is damaged, or a newer version wrote it: the work on all others must not wait for that.
"""

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import structlog

from proxy.core.errors import StoreCorruptError

log = structlog.get_logger()

Stored = TypeVar("Stored")
Read = TypeVar("Read")

TOLD: Final = 1_000
"""What is told of, at most: where everything is damaged, these say it."""


class Unread:
    """Reads of many records what can be read."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    @property
    def count(self) -> int:
        """How many are known.

        Whoever reads that many more gets as many readable ones as it wants.
        """
        return len(self._told)

    def readable(
        self, stored: Iterable[tuple[str, Stored]], read: Callable[[Stored], Read]
    ) -> list[Read]:
        """Return what `read` makes of each that is stored under an ID, less the unreadable."""
        found = (self.read(name, record, read) for name, record in stored)
        return [one for one in found if not isinstance(one, StoreCorruptError)]

    def unreadable(
        self, stored: Iterable[tuple[str, Stored]], read: Callable[[Stored], Read]
    ) -> list[str]:
        """Return the IDs of those that `readable` leaves out."""
        found = [(name, self.read(name, record, read)) for name, record in stored]
        return [name for name, one in found if isinstance(one, StoreCorruptError)]

    def read(
        self, name: str, record: Stored, read: Callable[[Stored], Read]
    ) -> Read | StoreCorruptError:
        """Return what `read` makes of the record of `name`, or why it cannot be read."""
        try:
            return read(record)
        except StoreCorruptError as exc:
            self._tell(name, exc)
            return exc

    def _tell(self, name: str, exc: StoreCorruptError) -> None:
        if name not in self._told and len(self._told) < TOLD:
            self._told.add(name)
            log.error("record.unread", subject=name, error=str(exc), hint=exc.hint)
