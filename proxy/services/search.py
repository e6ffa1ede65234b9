"""Find jobs among all owners', for operators.

Stores list the jobs of one owner. Whose there are is known by what waits and by the
ledger; so a listing over all of them needs no index over every job.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from proxy.core.errors import JobNotFoundError
from proxy.core.ids import JobId, OwnerId, is_job_id
from proxy.core.job import Job, JobState
from proxy.core.ledger import OTHERS, LedgerKey
from proxy.ports.clock import Clock
from proxy.ports.jobs import JobFilter, JobStore
from proxy.ports.ledger import LedgerStore

OWNERS_SINCE: Final = timedelta(days=30)
"""Whose last job ended before is not known any more: longer ago than results are kept."""

JOBS_PER_PAGE: Final = 50
OWNERS_MAX: Final = 50
"""Whose jobs are looked through for one page; more of them are chosen among by name."""

PAGES_LOOKED_THROUGH: Final = 20
"""How far a search for a model goes back before it says that it found no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobQuery:
    """What jobs are looked for."""

    state: JobState | None = None
    text: str = ""
    """A job's ID, its batch's, a tag `name=value`, or a part of its model's name."""

    owner: OwnerId | None = None
    after: JobId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """The jobs that were found, newest first."""

    jobs: Sequence[Job]
    owners: Sequence[OwnerId]
    """Whose jobs there are to choose among."""

    more_after: JobId | None = None
    """Where the next page begins; nothing if there is none."""

    is_cut: bool = False
    """Whether these are the newest of several owners, beyond which no page leads."""


class JobSearch:
    """Looks for jobs, a page at a time."""

    def __init__(self, *, jobs: JobStore, ledger: LedgerStore, clock: Clock) -> None:
        self._jobs = jobs
        self._ledger = ledger
        self._clock = clock

    async def find(self, query: JobQuery) -> JobPage:
        """Return a page of jobs."""
        owners = await self._owners()
        if is_job_id(query.text):
            found = await self._jobs.get_many([JobId(query.text)])
            return JobPage(jobs=found, owners=owners)
        among = [query.owner] if query.owner else owners[:OWNERS_MAX]
        if len(among) == 1:
            return await self._pages_of(among[0], query, owners, most=PAGES_LOOKED_THROUGH)
        jobs: list[Job] = []
        for owner in among:
            page = await self._pages_of(owner, query, owners, most=1)
            jobs += page.jobs
        jobs.sort(key=lambda job: (job.accepted_at, job.id), reverse=True)
        return JobPage(jobs=jobs[:JOBS_PER_PAGE], owners=owners, is_cut=bool(jobs))

    async def _pages_of(
        self, owner: OwnerId, query: JobQuery, owners: Sequence[OwnerId], *, most: int
    ) -> JobPage:
        """Return a page of one owner's jobs, looking through up to `most` for a model."""
        where, is_wanted = _conditions(query)
        jobs: list[Job] = []
        after = query.after
        for _ in range(most):
            try:
                read = await self._jobs.list_jobs(
                    owner, where, after=after, limit=JOBS_PER_PAGE + 1
                )
            except JobNotFoundError:
                # The one that the page began after was pruned meanwhile.
                return JobPage(jobs=jobs, owners=owners)
            page, more = read[:JOBS_PER_PAGE], len(read) > JOBS_PER_PAGE
            # What cannot be read is told of in the log.
            jobs += [job for job in page if isinstance(job, Job) and is_wanted(job)]
            after = page[-1].id if more else None
            if after is None or len(jobs) >= JOBS_PER_PAGE:
                break
        return JobPage(jobs=jobs, owners=owners, more_after=after)

    async def _owners(self) -> list[OwnerId]:
        """Return whose jobs there may be: who waits for any, and whose end was booked lately."""
        today = self._clock.now().date()
        rows = await self._ledger.rows(since=today - OWNERS_SINCE, until=today)
        booked = {row.key.owner for row in rows if row.key.owner and not _is_rest(row.key)}
        return sorted({*await self._jobs.pending(), *map(OwnerId, booked)})


def _conditions(query: JobQuery) -> tuple[JobFilter, Callable[[Job], bool]]:
    """Return what the store is asked, and what is looked for in its answers."""
    name, mark, value = query.text.partition("=")
    where = JobFilter(
        states=frozenset({query.state}) if query.state else None,
        tag=(name.strip(), value.strip()) if mark else None,
    )
    part = "" if mark else query.text.strip().lower()
    return where, lambda job: part in job.key.model.lower() or query.text == job.batch_id


def _is_rest(key: LedgerKey) -> bool:
    return key.owner == OTHERS and key == key.others()
