"""What the store is told of how answers ended: whether they were flushed to their callers.

A repeat of a call can claim its job only if the store knows that the answer was not. So no note
may be lost to a handler that is cancelled, nor to a store that is away.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from proxy.core.chunks import chunked
from proxy.core.errors import StoreError
from proxy.core.ids import JobId
from proxy.core.repeats import WAITER_LEASE
from proxy.ports.clock import Clock
from proxy.ports.jobs import DeliveryNote, DeliveryStore
from proxy.ports.tasks import TaskOwner

NOTES_CHUNK: Final = 200
"""Notes per call of the store."""

UNWRITTEN_MAX: Final = 10_000
"""Notes kept while the store is away. The lease of one that is dropped ends by itself."""


@dataclass(frozen=True, slots=True)
class _Note:
    flushed: bool
    retry_count: int
    made_at: float


class EndingNotes:
    """The notes of this instance; those that could not be written wait for a pass."""

    def __init__(self, *, deliveries: DeliveryStore, clock: Clock, tasks: TaskOwner) -> None:
        self._deliveries = deliveries
        self._clock = clock
        self._tasks = tasks
        self._unwritten: dict[JobId, _Note] = {}
        self._fresh: list[JobId] = []
        """Whose note nobody waits for, and nobody has tried to write yet."""

        self._is_writing = False

    async def note(self, job_id: JobId, *, flushed: bool, retry_count: int) -> None:
        """Tell the store whether an answer was flushed; never raise for the store's sake.

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

    async def run_once(self) -> int:
        """Write what `note` could not; return how many.

        Raises:
            StoreUnavailableError: if the store is away; the next pass goes on.
        """
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
        return len(notes)

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
