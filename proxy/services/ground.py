"""What services stand on: those of the background, and those that callers wait for."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from proxy.core.batch import Batch, advance
from proxy.core.batch_events import BatchEvent
from proxy.core.chunks import chunked
from proxy.core.errors import StoreCorruptError, StoreForgotError
from proxy.core.ids import JobId
from proxy.core.job import Job, JobState
from proxy.ports.batches import BatchStore
from proxy.ports.clock import Clock
from proxy.ports.jobs import CredentialStore, DeliveryStore, JobStore, JobWrite, QueueStore
from proxy.ports.notices import NoticeStore
from proxy.ports.passes import Wake, wake_nobody
from proxy.ports.tally import Tally
from proxy.services.leases import Leases
from proxy.services.ledger.bookkeeping import Bookkeeper
from proxy.services.troubles import Troubles

JOBS_PER_WRITE: Final = 100
"""What holds the store for a few milliseconds: nobody else's write waits for longer."""

FORSAKE_AFTER: Final = timedelta(days=7)
"""How long to ask for a batch that no job waits for while its credentials are refused.

As long as results are kept by default: nobody mends a key for older ones.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """The stores, the time, the leases of this instance, the books and the counters."""

    jobs: JobStore
    queue: QueueStore
    deliveries: DeliveryStore
    credentials: CredentialStore
    batches: BatchStore
    notices: NoticeStore
    clock: Clock
    leases: Leases
    books: Bookkeeper
    tally: Tally
    wake: Wake = wake_nobody
    """Brings the pass forward that goes on with what another one did."""

    troubles: Troubles = field(default_factory=Troubles)

    setback: timedelta = timedelta()
    """For how long nothing is deleted elsewhere by what the store has taken: it may yet lose it."""

    def now(self) -> datetime:
        """Return the time on the wall, in UTC."""
        return self.clock.now()

    async def write_batch(self, batch: Batch, event: BatchEvent) -> Batch:
        """Make `event` durable and return the batch as it is then.

        If another instance changed the batch in the meantime, the event is applied
        to what it is now; the table says whether it still means anything.

        Raises:
            StoreForgotError: if the store has not got the batch as it was once written.
        """
        while True:
            after = advance(batch, event)
            if after is batch or await self.batches.replace(after):
                return after
            batch = await self.read_again(batch)

    async def read_again(self, batch: Batch) -> Batch:
        """Return what has become of a batch that was read or written before.

        Raises:
            StoreForgotError: if the store has not got the batch as it was once written.
        """
        current = await self.batches.get(batch.id)
        # A Redis that failed over to a replica behind it, or was started again without its
        # files. What comes next is illegal to the past, and yet no bug of ours that may end
        # the instance, and with it the calls of everybody.
        if current is None or current.version < batch.version:
            raise StoreForgotError(
                f"the store has lost what it had taken of batch {batch.id}",
                hint="jobs that were accepted shortly before it went away may be lost",
            )
        return current

    async def is_unmoved(self, batch: Batch) -> bool:
        """Return whether nobody went on with a batch since it was read or written here.

        Another instance does if this one stands still for longer than its lease.
        """
        return (await self.read_again(batch)).version == batch.version

    async def readable(
        self, job_ids: Sequence[JobId]
    ) -> tuple[Sequence[Job], Mapping[JobId, StoreCorruptError]]:
        """Return those of the jobs that can be read, and why each of the others cannot."""
        try:
            return await self.jobs.get_many(job_ids), {}
        except StoreCorruptError:
            # One of them, which must not hold up the others.
            found: list[Job] = []
            unread: dict[JobId, StoreCorruptError] = {}
        for job_id in job_ids:
            try:
                found += await self.jobs.get_many([job_id])
            except StoreCorruptError as exc:
                unread[job_id] = exc
        return found, unread

    async def is_forsaken(self, batch: Batch) -> bool:
        """Return whether no credential has been let in for long and nobody waits for the batch."""
        since = batch.refused_since
        if since is None or self.now() - since < FORSAKE_AFTER:
            return False
        return not await self.is_awaited(batch)

    async def is_awaited(self, batch: Batch) -> bool:
        """Return whether a job still waits for the batch."""
        async for _ in self.batches.open_items(batch.id):
            return True
        return False

    async def write_jobs(self, writes: Sequence[JobWrite]) -> list[Job]:
        """Write jobs, some at a time, and return those that were written.

        The others were changed by somebody else since they were read.
        """
        written: list[Job] = []
        for chunk in chunked(writes, JOBS_PER_WRITE):
            refused = await self.jobs.replace_many(chunk)
            written += [write.after for write in chunk if write.after.id not in refused]
        return written


def count_ends(tally: Tally, ended: Sequence[Job]) -> None:
    """Count the ends of jobs and, for those that came too late, the cause."""
    ends = Counter((job.state, job.lane) for job in ended)
    for (state, lane), number in ends.items():
        tally.count("job_ended", number, state=state.value, lane=lane.value)
    for cause, number in Counter(map(_missed_by, ended)).items():
        if cause is not None:
            tally.count("deadline_missed", number, cause=cause)


def _missed_by(job: Job) -> str | None:
    """Return why an ended job missed its deadline, if it did."""
    if not job.deadline_missed and job.state is not JobState.EXPIRED:
        return None
    return "queued" if job.attempt == 0 else "retried" if job.failures else "in_flight"


def count_doubles(tally: Tally, doubtful: Iterable[Job]) -> None:
    """Count jobs that were released after an attempt that may have been computed and paid."""
    for job in doubtful:
        tally.count("possible_double", lane=job.lane.value)
