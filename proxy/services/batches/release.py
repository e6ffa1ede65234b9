"""Give back every job that a batch left without a result."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog

from proxy.core.bad_lines import LOOKED_THROUGH, are_too_many_to_name
from proxy.core.batch import Batch
from proxy.core.batch_ends import OF_SOME_LINE, UNBATCHABLE_CODES, after_batch, may_have_run
from proxy.core.chunks import chunked
from proxy.core.errors import JobNotFoundError, StoreCorruptError
from proxy.core.ids import JobId
from proxy.core.job import Job, Released, advance
from proxy.core.lanes import Lane, LaneChoice
from proxy.core.ledger import Booking
from proxy.ports.batches import Item
from proxy.ports.jobs import JobWrite
from proxy.services.ground import JOBS_PER_WRITE, Ground, count_doubles
from proxy.services.outlook import Outlook

log = structlog.get_logger()

_UNREAD: Final = LaneChoice(Lane.INTERACTIVE, "its call cannot be read for a batch")


class Releaser:
    """Releases the rest of a batch whose results have been read."""

    def __init__(self, ground: Ground, *, outlook: Outlook) -> None:
        self._ground = ground
        self._outlook = outlook

    async def release(self, batch: Batch, told: int) -> None:
        """Book what nobody will see of a batch, and release each job that still waits for it.

        `told` is how many of its jobs have a line in the results.

        Raises:
            StoreCorruptError: if one of them cannot be read; all others are released then. It
                keeps its claim, and the batch its results, for whoever can read it.
        """
        # Before jobs are released: after a crash between, fewer of them are open.
        waiting = await self._book_unseen(batch, told)
        released = await self._release_rest(batch, is_booked=waiting > 0)
        if waiting > released:
            # The others were cancelled by their callers, in between.
            self._ground.books.count_possible(batch, waiting - released)

    async def _book_unseen(self, batch: Batch, told: int) -> int:
        """Book all that may have been computed, unseen; return how many of its jobs still wait.

        Those are released as possible doubles, each by itself: the same write takes it off here.
        So after a crash at any moment each is booked once, be its job released or cancelled.
        """
        unseen = batch.lines_sent - told
        if unseen <= 0 or not may_have_run(batch):
            return 0
        waiting = 0
        async for items in self._ground.batches.open_items(batch.id):
            waiting += len(items)
        if await self._ground.books.book_unseen(batch, max(unseen, waiting)):
            self._ground.books.count_possible(batch, max(unseen - waiting, 0))
        return waiting

    async def _release_rest(self, batch: Batch, *, is_booked: bool) -> int:
        """Release, call directly or end each job that still waits; return how many those were.

        May be called again after a crash: what it released is in the batch no longer. With
        `is_booked` the possible doubles among them are taken off the books of the batch.
        """
        off = self._ground.books.off_unseen(batch) if is_booked else ()
        bad_line = await self._bad_line(batch)
        released, problems = 0, dict[JobId, StoreCorruptError]()
        async for items in self._ground.batches.open_items(batch.id):
            for chunk in chunked(items, JOBS_PER_WRITE):
                attempts = {item.job_id: item.attempt for item in chunk}
                jobs, unread = await self._ground.readable(list(attempts))
                released += await self._release(batch, jobs, attempts, bad_line, off)
                problems |= unread
        if released:
            log.info("batch.released", batch_id=batch.id, jobs=released, reason=batch.end_reason)
            self._ground.wake("flush")
            self._ground.wake("escalate")
        for job_id, problem in problems.items():
            raise StoreCorruptError(f"job {job_id}: {problem}", hint=problem.hint)
        return released

    async def _release(
        self,
        batch: Batch,
        jobs: Sequence[Job],
        attempts: Mapping[JobId, int],
        bad_line: Item | None,
        off: tuple[Booking, ...],
    ) -> int:
        writes = []
        doubtful = set()
        for job in jobs:
            event = after_batch(
                job,
                attempts[job.id],
                batch,
                is_bad_line=bad_line is not None and bad_line.job_id == job.id,
                facts=self._outlook.facts(job.key),
                now=self._ground.now(),
            )
            after = advance(job, event)
            if after is not job:
                writes.append(JobWrite(after, bookings=off if event.possible_double else ()))
            if event.possible_double:
                doubtful.add(job.id)
        # Any other was cancelled by its caller at this moment.
        released = await self._ground.write_jobs(writes)
        count_doubles(self._ground.tally, [job for job in released if job.id in doubtful])
        return len(released)

    async def _bad_line(self, batch: Batch) -> Item | None:
        """Return the one item whose line failed the whole batch, if that is why."""
        line = batch.error_line
        if line is None and batch.error_code in OF_SOME_LINE and batch.count == 1:
            line = 1
        if line is None or batch.error_code in UNBATCHABLE_CODES:
            return None
        found, seen = None, 0
        async for items in self._ground.batches.items(batch.id):
            if seen < line <= seen + len(items):
                found = items[line - seen - 1]
            seen += len(items)
        # Where jobs ended since, nobody can tell whose line it is. The next batch will be
        # without theirs, and its own error says it right.
        return found if seen == batch.lines_sent else None


async def release_unread(ground: Ground, batch: Batch, *, may_go_on: Callable[[], bool]) -> None:
    """Release those jobs of a batch that is not sent yet whose calls cannot be read.

    Each is called by itself, by whoever can read it. Stops when it may not go on.
    """
    async for items in ground.batches.items(batch.id):
        for chunk in chunked(items, JOBS_PER_WRITE):
            unread = [item for item in chunk if not await _is_readable(ground, item.job_id)]
            if not unread or not may_go_on():
                continue
            attempts = {item.job_id: item.attempt for item in unread}
            jobs, _ = await ground.readable(list(attempts))
            writes = []
            for job in jobs:
                event = Released(attempts[job.id], "unread", _UNREAD, uncharged=True)
                if (after := advance(job, event)) is not job:
                    writes.append(JobWrite(after))
            await ground.jobs.replace_many(writes)
            log.warning("job.unread", batch_id=batch.id, jobs=len(writes))


async def _is_readable(ground: Ground, job_id: JobId) -> bool:
    try:
        await ground.jobs.body(job_id)
    except StoreCorruptError:
        return False
    except JobNotFoundError:
        pass  # Erased since: it is no line any more.
    return True


async def line_to_blame(ground: Ground, batch: Batch, line: int | None) -> int | None:
    """Return the line to take out of a refused batch; nothing where there are too many of them."""
    if line is None:
        return None
    recent = await ground.batches.recent(limit=LOOKED_THROUGH)
    too_many = are_too_many_to_name(recent, batch.key, now=ground.now())
    return None if too_many else line
