"""Who is held here, and what became of their answers.

`Hold` is one held connection and `Holding` all of this instance's, with their bound and
their leases. What is sent over one while it is held is decided by `Holder` in `held.py`.

A held connection is a promise to one caller. While it lives, its lease in the
store says so, renewed for all of them together by one pass; when it ends, the
store is told whether the answer was flushed, so that a repeat of the call can
claim the job. Neither may be lost to a cancelled handler, and neither needs a
task of its own.
"""

import asyncio
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from proxy.core.chunks import chunked
from proxy.core.errors import OverloadedError, StoreError
from proxy.core.ids import JobId
from proxy.core.repeats import WAITER_LEASE
from proxy.ports.clock import Clock
from proxy.ports.jobs import DeliveryNote, DeliveryStore
from proxy.ports.tasks import TaskOwner

PASS_INTERVAL_S: Final = 10.0
"""How often `run_once` must run: two passes may fail before a lease of 30 s ends."""

RENEW_CHUNK: Final = 500
"""Leases per call of the store, so that none holds it for long."""

NOTES_CHUNK: Final = 200
"""Notes per call of the store."""

UNWRITTEN_MAX: Final = 10_000
"""Notes kept while the store is away. The lease of one that is dropped ends by itself."""

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


@dataclass(frozen=True, slots=True)
class _Note:
    flushed: bool
    retry_count: int
    made_at: float


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
    """The held connections of this instance, at most `max_held`, and notes of how answers ended.

    A connection costs a file descriptor and some 30 KB, and each is a caller who would
    rather hear "later" than be cut off with all the others.
    """

    def __init__(
        self, *, deliveries: DeliveryStore, clock: Clock, tasks: TaskOwner, max_held: int
    ) -> None:
        self._deliveries = deliveries
        self._tasks = tasks
        self._clock = clock
        self._max_held = max_held
        self._holds: set[Hold] = set()
        self._unwritten: dict[JobId, _Note] = {}
        self._fresh: list[JobId] = []
        """Whose note nobody waits for, and nobody has tried to write yet."""

        self._is_writing = False
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

    async def note(self, job_id: JobId, *, flushed: bool, retry_count: int) -> None:
        """Tell the store whether the answer was flushed; never raise for the store's sake.

        Returns once the note of a break is durable; that of a flushed answer follows
        at once, together with others. Safe in a handler that is being cancelled, even
        twice: what could not be written waits for the next pass. Put down before the
        first await, because that is where a cancellation strikes.
        """
        if flushed:
            # Nothing that its caller does next depends on it.
            self.note_soon(job_id, flushed=True, retry_count=retry_count)
            return
        note = self._put_down(job_id, flushed=False, retry_count=retry_count)
        with suppress(StoreError):
            await self._write({job_id: note})

    def note_soon(self, job_id: JobId, *, flushed: bool, retry_count: int) -> None:
        """Do what `note` does without anybody waiting for it.

        The job need not exist: a store knows nothing of one that was not made.
        """
        self._put_down(job_id, flushed=flushed, retry_count=retry_count)
        self._fresh.append(job_id)
        if not self._is_writing:
            self._is_writing = True
            self._tasks.create_task(self._write_fresh(), name="notes")

    def _put_down(self, job_id: JobId, *, flushed: bool, retry_count: int) -> _Note:
        note = _Note(flushed, retry_count, self._clock.monotonic())
        if len(self._unwritten) < UNWRITTEN_MAX:
            self._unwritten[job_id] = note
        return note

    async def _write_fresh(self) -> None:
        """Write what nobody waits for; the notes that come meanwhile make the next group."""
        try:
            while self._fresh:
                group, self._fresh = self._fresh[:NOTES_CHUNK], self._fresh[NOTES_CHUNK:]
                unwritten = self._unwritten
                await self._write({one: unwritten[one] for one in group if one in unwritten})
        except StoreError:
            # The next pass writes what is left.
            self._fresh.clear()
        finally:
            self._is_writing = False

    async def _write(self, notes: Mapping[JobId, _Note]) -> None:
        await self._deliveries.finish(
            [DeliveryNote(job_id, note.flushed, note.retry_count) for job_id, note in notes.items()]
        )
        for job_id, note in notes.items():
            if self._unwritten.get(job_id) is note:
                del self._unwritten[job_id]

    async def run_once(self) -> int:
        """Write what `note` could not, renew every waiter's lease; return how many.

        Raises:
            StoreUnavailableError: if the store is away; the next pass goes on.
        """
        await self._write_notes()
        waiting = list({hold.job_id for hold in self._holds if hold.is_waiter})
        for chunk in chunked(waiting, RENEW_CHUNK):
            await self._deliveries.renew(chunk, until=self._clock.now() + WAITER_LEASE)
        return len(waiting)

    async def _write_notes(self) -> None:
        too_old = self._clock.monotonic() - WAITER_LEASE.total_seconds()
        # The lease of an old break has ended and says the same; by now a repeat may have
        # claimed the job, and its connection must not be called broken.
        self._unwritten = {
            job_id: note
            for job_id, note in self._unwritten.items()
            if note.flushed or note.made_at >= too_old
        }
        notes = list(self._unwritten.items())
        for chunk in chunked(notes, NOTES_CHUNK):
            await self._write(dict(chunk))

    def drain(self) -> None:
        """Take no more, and let go of everyone to whom nothing was sent yet.

        The others are held on: the server cuts them when its own time is up.
        """
        self._draining = True
        for hold in self._holds:
            hold.drain()
