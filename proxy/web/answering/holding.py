"""Who is held here, with their bound and their leases.

`Hold` is one held connection and `Holding` all of this instance's. What is sent over one
while it is held is decided by `Holder` in `held.py`, and how it ended is noted by
`ending_notes.py`.

A held connection is a promise to one caller. While it lives, its lease in the store says so,
renewed for all of them together by one pass, so that none needs a task of its own.
"""

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from proxy.core.chunks import chunked
from proxy.core.errors import OverloadedError
from proxy.core.ids import JobId
from proxy.core.repeats import WAITER_LEASE
from proxy.ports.clock import Clock
from proxy.ports.jobs import DeliveryStore

PASS_INTERVAL_S: Final = 10.0
"""How often `run_once` must run: two passes may fail before a lease of 30 s ends."""

RENEW_CHUNK: Final = 500
"""Leases per call of the store, so that none holds it for long."""

T = TypeVar("T")


class LetGoError(Exception):
    """A hold ends before its time: the instance is about to stop, and nothing was sent yet.

    Never told to a caller: whoever holds one decides what it hears, such as a `StoppingError`.
    """


class TooManyHeldError(OverloadedError):
    """No more connections can be held here for now."""

    code = "too_many_held"

    def __init__(self) -> None:
        super().__init__("too many held connections")


@dataclass(slots=True, eq=False)
class Hold:
    """One held connection, for as long as it is held."""

    job_id: JobId
    is_waiter: bool
    """Whether it answers the call that made or claimed the job."""

    _drained: bool = False
    _interruption: asyncio.Timeout | None = None

    async def uncommitted(self, waiting: Awaitable[T]) -> T:
        """Await something before the first byte.

        Raises:
            LetGoError: as soon as the instance wants to stop.
        """
        try:
            async with asyncio.timeout(0 if self._drained else None) as interruption:
                self._interruption = interruption
                return await waiting
        except TimeoutError:
            if interruption.expired():
                raise LetGoError from None
            raise
        finally:
            self._interruption = None

    def drain(self) -> None:
        """Interrupt what is awaited before the first byte, now or later."""
        self._drained = True
        if self._interruption is not None:
            self._interruption.reschedule(0)


class Holding:
    """The held connections of this instance, at most `max_held`.

    A connection costs a file descriptor and some 30 KB, and each is a caller who would
    rather hear "later" than be cut off with all the others.
    """

    def __init__(self, *, deliveries: DeliveryStore, clock: Clock, max_held: int) -> None:
        self._deliveries = deliveries
        self._clock = clock
        self._max_held = max_held
        self._holds: set[Hold] = set()
        self._draining = False

    @property
    def count(self) -> int:
        """How many connections are held now."""
        return len(self._holds)

    @property
    def is_full(self) -> bool:
        """Whether no more may be held, for now."""
        return len(self._holds) >= self._max_held

    def has_room(self) -> bool:
        """Return whether one more may be held; to be asked before anything is accepted."""
        return not self._draining and not self.is_full

    @contextmanager
    def enter(self, job_id: JobId, *, is_waiter: bool) -> Iterator[Hold]:
        """Count a connection as held until the block ends."""
        hold = Hold(job_id, is_waiter, self._draining)
        self._holds.add(hold)
        try:
            yield hold
        finally:
            self._holds.discard(hold)

    async def run_once(self) -> int:
        """Renew the lease of every caller who waits for a job; return how many.

        Raises:
            StoreUnavailableError: if the store is away; the next pass goes on.
        """
        waiting = list({hold.job_id for hold in self._holds if hold.is_waiter})
        for chunk in chunked(waiting, RENEW_CHUNK):
            await self._deliveries.renew(chunk, until=self._clock.now() + WAITER_LEASE)
        return len(waiting)

    def drain(self) -> None:
        """Take no more, and let go of everyone to whom nothing was sent yet.

        The others are held on: the server cuts them when its own time is up.
        """
        self._draining = True
        for hold in self._holds:
            hold.drain()
