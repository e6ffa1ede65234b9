"""End jobs because their callers no longer want them."""

from typing import Final

import structlog

from proxy.core.batch import BatchState
from proxy.core.errors import OverloadedError
from proxy.core.job import CancelRequested, Job, advance
from proxy.services.ground import Ground, count_ends
from proxy.services.waiters import Waiters

log = structlog.get_logger()

TRIES: Final = 5
"""A refusal is a lost race; nothing changes one job so often in so short a time."""


class Canceller:
    """Cancels and erases jobs. Whose they are was asked before."""

    def __init__(self, ground: Ground, *, waiters: Waiters) -> None:
        self._ground = ground
        self._waiters = waiters

    async def cancel(self, job: Job) -> Job:
        """Return the job as it ended: by this, or before.

        A batch that has it goes on; what is answered there is booked when it is read.

        Raises:
            OverloadedError: if others change the job all the while.
            JobNotFoundError: if it is erased in the meantime.
        """
        for _ in range(TRIES):
            after = advance(job, CancelRequested(self._ground.now()))
            if after is job:
                return job
            if not await self._ground.jobs.replace_many([self._ground.books.write(after)]):
                log.info("job.cancelled", job_id=job.id, was=job.state.value)
                count_ends(self._ground.tally, [after])
                self._waiters.wake([job.id])
                return after
            job = await self._ground.jobs.get(job.id)
        raise OverloadedError(
            f"job {job.id} changes too fast to be cancelled", retry_after_s=1, code="job_busy"
        )

    async def erase(self, job: Job) -> None:
        """Cancel the job, and erase it with its prompt and its result.

        Raises:
            OverloadedError: if others change the job all the while.
            JobNotFoundError: if it is erased in the meantime.
        """
        job = await self.cancel(job)
        # Before it is gone: afterwards nobody could tell what of it is booked already.
        batch = await self._ground.batches.get(job.batch_id) if job.batch_id is not None else None
        if batch is not None and batch.state is not BatchState.SETTLED:
            await self._ground.books.note_answered(job)
        await self._ground.books.note_undoubted(job)
        await self._ground.jobs.erase(job.id)
        log.info("job.deleted", job_id=job.id)
        self._waiters.wake([job.id])
