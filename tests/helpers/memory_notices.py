"""Notices in memory, written to be obviously right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from proxy.core.ids import JobId
from proxy.core.job import Job
from proxy.core.notices import Notice
from proxy.ports.notices import Standing


@dataclass(frozen=True, slots=True)
class Owed:
    notice: Notice
    due: datetime | None


@dataclass(slots=True)
class MemoryNoticeStore:
    owed: dict[JobId, Owed] = field(default_factory=dict)
    counts: dict[str, Standing] = field(default_factory=dict)

    def owe(self, job: Job) -> None:
        """Called with every write of a job."""
        if job.webhook is not None and job.finalized_at is not None:
            notice = Notice(job_id=job.id, webhook=job.webhook, owed_since=job.finalized_at)
            self.owed[job.id] = Owed(notice, job.finalized_at)

    async def take(
        self, webhook: str, *, now: datetime, until: datetime, limit: int
    ) -> Sequence[Notice]:
        due = [
            (one.due, one.notice)
            for one in self.owed.values()
            if one.notice.webhook == webhook and one.due is not None and one.due <= now
        ]
        taken = [notice for _, notice in sorted(due, key=lambda pair: pair[0])[:limit]]
        for notice in taken:
            self.owed[notice.job_id] = Owed(notice, until)
        return taken

    async def delivered(self, notice: Notice, *, at: datetime) -> None:
        await self.forget(notice)
        known = self.counts.get(notice.webhook, Standing())
        self.counts[notice.webhook] = replace(known, delivered=known.delivered + 1, delivered_at=at)

    async def failed(
        self, notice: Notice, *, at: datetime, failure: str, again_at: datetime | None
    ) -> None:
        stored = self.owed.get(notice.job_id)
        if stored is None or stored.notice != notice:
            return
        after = replace(notice, attempts=notice.attempts + 1)
        self.owed[notice.job_id] = Owed(after, again_at)
        known = self.counts.get(notice.webhook, Standing())
        self.counts[notice.webhook] = replace(
            known, failed=known.failed + 1, failed_at=at, last_failure=failure
        )

    async def forget(self, notice: Notice) -> None:
        self.owed.pop(notice.job_id, None)

    async def revive(self, webhook: str, *, at: datetime) -> int:
        given_up = [
            one.notice
            for one in self.owed.values()
            if one.notice.webhook == webhook and one.due is None
        ]
        for notice in given_up:
            self.owed[notice.job_id] = Owed(replace(notice, attempts=0), at)
        return len(given_up)

    async def standing(self, webhooks: Sequence[str]) -> Mapping[str, Standing]:
        return {name: self._standing(name) for name in webhooks}

    def _standing(self, name: str) -> Standing:
        mine = [one for one in self.owed.values() if one.notice.webhook == name]
        return replace(
            self.counts.get(name, Standing()),
            pending=sum(one.due is not None for one in mine),
            given_up=sum(one.due is None for one in mine),
        )
