"""Take back jobs whose calls were forwarded after all.

If the store gives no answer about a new job, a call that a rule diverted is forwarded: nobody asked
for its deferral, so it must not fail for it. The job may be there all the same, and would be bought
for nobody. So it is looked for once the store answers again, and cancelled: one that still waits
then costs nothing, and what a batch already has is booked as useless when it is read. If the
instance dies meanwhile, what it had noted is bought, as the answer to a job that nobody asked for.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog

from proxy.core.chunks import chunked
from proxy.core.ids import JobId
from proxy.core.job import CancelRequested, Job, JobState, advance
from proxy.services.ground import JOBS_PER_WRITE, Ground, count_doubles, count_ends

log = structlog.get_logger()

REMEMBERED: Final = 10_000
"""How many such jobs are noted at most; a store that is away for long gets no more of them."""

LOOKED_FOR: Final = timedelta(minutes=2)
"""How long after a write without an answer its job may still come into being: what was sent to a
store that does not answer may wait in a queue."""


class Withdrawer:
    """Withdraws jobs; `run_once` is a pass."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._noted: dict[JobId, datetime] = {}
        """Since when, the oldest first."""

    def note(self, job_id: JobId) -> None:
        """Note a job that may exist although its call is forwarded. Never blocks, never fails."""
        if len(self._noted) >= REMEMBERED:
            del self._noted[next(iter(self._noted))]
        self._noted[job_id] = self._ground.now()

    def keep(self, job_id: JobId) -> None:
        """Leave a job alone: its call was repeated, and the repeat now waits for it."""
        self._noted.pop(job_id, None)

    async def run_once(self) -> int:
        """Withdraw the noted jobs that exist; return how many did.

        Raises:
            StoreError: if the store still does not answer; nothing is forgotten.
        """
        withdrawn = 0
        for chunk in chunked(list(self._noted), JOBS_PER_WRITE):
            there, _ = await self._ground.readable(chunk)
            found = [job for job in there if job.id in self._noted]
            refused = await self._withdraw(found)
            withdrawn += len(found) - len(refused)
            now = self._ground.now()
            ended = {job.id for job in found} - refused
            for job_id in chunk:
                since = self._noted.get(job_id)
                if job_id in ended or (since is not None and now - since >= LOOKED_FOR):
                    self.keep(job_id)
        return withdrawn

    async def _withdraw(self, jobs: Sequence[Job]) -> frozenset[JobId]:
        """Cancel what has not ended; return what changed meanwhile, to be looked at again."""
        now = self._ground.now()
        writes = []
        for job in jobs:
            after = advance(job, CancelRequested(now))
            if after is not job:
                writes.append(self._ground.books.write(after))
            elif job.state is JobState.COMPLETED:
                # Bought before it was found: in the ledger it is an answer like any other.
                count_doubles(self._ground.tally, [job])
        refused = await self._ground.jobs.replace_many(writes)
        ended = [write.after for write in writes if write.after.id not in refused]
        count_ends(self._ground.tally, ended)
        for job in ended:
            log.warning("job.withdrawn", job_id=job.id)
        return refused
