"""Take over what dead instances left, end what can end no other way, wake paused lanes."""

from collections.abc import AsyncIterator, Awaitable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import structlog

from proxy.core.batch import Batch
from proxy.core.chunks import chunked
from proxy.core.errors import StoreCorruptError
from proxy.core.ids import BatchId, CredentialId, JobId
from proxy.core.job import DeadlinePassed, Failed, Job, Outcome, Released, advance
from proxy.core.lanes import BatchKey
from proxy.core.plan import Head
from proxy.ports.jobs import Credential, Result
from proxy.services.batches.in_vain import WINDOW_AND_HOUR
from proxy.services.callers.accounts import CredentialVerdict, Verify
from proxy.services.direct.escalate import CALLS_LOOKED_AT
from proxy.services.ground import JOBS_PER_WRITE, Ground, count_doubles, count_ends
from proxy.services.unread import UnreadQueues
from proxy.services.waiters import Waiters

log = structlog.get_logger()

JOBS_PER_PASS: Final = 1_000

LOST_FOR: Final = timedelta(minutes=10)
"""For how long a batch must be unknown to the store before its jobs are given back. A server
that was shut out answers for a while as if it had never heard of the latest batches."""

PROBE_EVERY: Final = timedelta(minutes=5)
"""How often a paused credential is tried again, by a free call."""


class Rescuer:
    """Ends or gives back the jobs that nobody else cares for."""

    def __init__(self, ground: Ground, *, waiters: Waiters, verify: Verify) -> None:
        self._ground = ground
        self._waiters = waiters
        self._verify = verify
        self._unread = UnreadQueues()
        self._probed_at: datetime | None = None
        self._lost_since: Mapping[BatchId, float] = {}

    async def run_once(self) -> int:
        """Look once, within bounds, at all that may need help; return how many jobs moved."""
        async with self._ground.leases.held("pass:rescue") as lease:
            if lease is None:
                return 0
            moved = await self._release_orphans() + await self._release_lost()
            moved += await self._release_unread()
            for head in await self._ground.batches.heads():
                if head.nearest_deadline <= self._ground.now():
                    moved += await self._apart(head.key, head.count, self._end_overdue(head))
            for batch in await self._ground.batches.live():
                if _is_overdue_and_refused(batch, self._ground.now()):
                    ended = self._end_unreadable(batch)
                    moved += await self._apart(batch.key, batch.count, ended)
            await self._probe_paused()
            return moved

    async def _apart(self, key: BatchKey, jobs: int, work: Awaitable[int]) -> int:
        """Return how many jobs were moved: none if something of theirs cannot be read."""
        return await self._unread.apart(key, work, jobs=jobs) or 0

    async def _release_lost(self) -> int:
        """Give back the jobs of batches that the store has lost: nobody can tell what they bought.

        A failover of one server in a cluster may take a batch with it and leave its jobs.
        """
        now = self._ground.clock.monotonic()
        lost = await self._ground.batches.lost()
        self._lost_since = {batch_id: self._lost_since.get(batch_id, now) for batch_id in lost}
        moved = 0
        for batch_id, since in self._lost_since.items():
            if now - since >= LOST_FOR.total_seconds():
                moved += await self._release_all_of(batch_id)
        return moved

    async def _release_all_of(self, batch_id: BatchId) -> int:
        """Release every job that still waits for the batch, and forget its items."""
        moved, is_all_read = 0, True
        async for jobs, unread in self._open_jobs(batch_id):
            held = [job for job in jobs if job.batch_id == batch_id]
            moved += await self._release(held, "its batch was lost")
            is_all_read = is_all_read and not unread
        if is_all_read:
            # The claim is all that says what became of a job that cannot be read here.
            await self._ground.batches.drop_items(batch_id)
        return moved

    async def _release_unread(self) -> int:
        """Give back the overdue jobs of batches that cannot be read: they end by their deadlines.

        Not before others have had their time: an instance of a newer version may read them.
        """
        before, moved = self._ground.now() - WINDOW_AND_HOUR, 0
        for batch_id in await self._ground.batches.unread():
            async for jobs, _ in self._open_jobs(batch_id):
                overdue = [j for j in jobs if j.batch_id == batch_id and j.deadline <= before]
                moved += await self._release(overdue, "its batch cannot be read")
        return moved

    async def _release_orphans(self) -> int:
        """Give back jobs whose caller died in mid-call: they may be paid for."""
        jobs = await self._ground.queue.escalating(limit=CALLS_LOOKED_AT)
        if not jobs:
            return 0
        holders = {job.holder for job in jobs if job.holder is not None}
        dead = await self._ground.leases.dead(holders)
        return await self._release([job for job in jobs if job.holder in dead], "its instance died")

    async def _release(self, jobs: Sequence[Job], reason: str) -> int:
        """Give back jobs that may be paid for; return how many."""
        event = partial(Released, reason=reason, possible_double=True)
        released = await self._write([advance(job, event(job.attempt)) for job in jobs])
        if released:
            log.warning("job.rescued", jobs=len(released), reason=reason)
            count_doubles(self._ground.tally, released)
        return len(released)

    async def _end_overdue(self, head: Head) -> int:
        """End queued jobs whose deadline has passed: nothing of them is in flight."""
        now = self._ground.now()
        jobs = await self._ground.queue.due(head.key, before=now, limit=JOBS_PER_PASS)
        refused = await self._paused(head.key.credential) if head.paused else None
        if refused is not None:
            return await self._fail(jobs, refused)
        ended = await self._write([advance(job, DeadlinePassed(now)) for job in jobs])
        count_ends(self._ground.tally, ended)
        if ended:
            log.warning("job.expired", jobs=len(ended), lane=head.key.lane)
        return len(ended)

    async def _end_unreadable(self, batch: Batch) -> int:
        """End overdue jobs of a batch that no credential of their owner may read."""
        refused = await self._ground.credentials.get(batch.key.credential)
        if refused is not None and refused.paused_at is None:
            return 0
        moved = 0
        async for jobs, _ in self._open_jobs(batch.id):
            moved += await self._fail(
                [j for j in jobs if j.deadline <= self._ground.now()], refused
            )
        return moved

    async def _open_jobs(
        self, batch_id: BatchId
    ) -> AsyncIterator[tuple[Sequence[Job], Collection[JobId]]]:
        """Stream the jobs that wait for the batch, in parts that may be written at once.

        With each part come those that cannot be read.
        """
        async for items in self._ground.batches.open_items(batch_id):
            for chunk in chunked(items, JOBS_PER_WRITE):
                yield await self._ground.readable([item.job_id for item in chunk])

    async def _fail(self, jobs: Sequence[Job], refused: Credential | None) -> int:
        """End `jobs` with the provider's own refusal of their credential, if that is known."""
        status, body = 401, None
        if refused is not None:
            status, body = refused.pause_status or status, refused.pause_body
        outcome = Outcome(status, "credential_paused", "the provider refuses the credential")
        result = Result(status_code=status, body=body) if body is not None else None
        now = self._ground.now()
        after = [advance(job, Failed(job.attempt, now, outcome)) for job in jobs]
        ended = await self._write(after, result)
        count_ends(self._ground.tally, ended)
        if ended:
            log.warning("job.failed", jobs=len(ended), reason="credential_paused")
        return len(ended)

    async def _write(self, after: list[Job], result: Result | None = None) -> list[Job]:
        writes = [self._ground.books.write(job, result) for job in after]
        written = await self._ground.write_jobs(writes)
        self._waiters.wake(job.id for job in written)
        return written

    async def _paused(self, credential_id: CredentialId) -> Credential | None:
        """Return the credential if its lane is paused, and it can be read."""
        try:
            credential = await self._ground.credentials.get(credential_id)
        except StoreCorruptError:
            # Its refusal is as lost. The deadlines of its jobs pass all the same.
            return None
        return credential if credential and credential.paused_at else None

    async def _probe_paused(self) -> None:
        """Try paused credentials again: accounts are topped up, scopes are granted."""
        now = self._ground.now()
        if self._probed_at is not None and now - self._probed_at < PROBE_EVERY:
            return
        self._probed_at = now
        for credential in await self._ground.credentials.all():
            if credential.paused_at is None:
                continue
            if await self._verify(credential) is CredentialVerdict.ACCEPTED:
                await self._ground.credentials.accepted(credential.id, at=self._ground.now())
                log.info("credential.resumed", credential=credential.id)


def _is_overdue_and_refused(batch: Batch, now: datetime) -> bool:
    return (
        batch.refused_since is not None
        and batch.nearest_deadline is not None
        and batch.nearest_deadline <= now
    )
