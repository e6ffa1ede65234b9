"""What operators are shown: everything at a glance, and every job and batch by itself.

Only reads, each bounded. No prompt, no result and no credential passes through here:
records hold none, and nothing else is read.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Final

from policies.conditions import Rule
from policies.model import by_rule
from policies.policy import Policy
from proxy.core.batch import Batch, BatchState
from proxy.core.batch_ends import ran_to_its_end
from proxy.core.errors import JobNotFoundError
from proxy.core.ids import BatchId, JobId, is_job_id
from proxy.core.job import Job
from proxy.core.lanes import BatchKey
from proxy.core.ledger import Booking, Sums, broken_down, total
from proxy.core.plan import Head
from proxy.core.turnaround import Spread
from proxy.ports.jobs import Credential
from proxy.ports.ledger import LedgerStore
from proxy.ports.notices import Standing
from proxy.services.ground import Ground
from proxy.services.search import JobPage, JobQuery, JobSearch
from proxy.telemetry import Metrics
from proxy.telemetry.metrics import Labels

Counts = Callable[[Sequence[str]], Awaitable[Mapping[str, Mapping[Labels, float]]]]
"""Asks for metrics by name, of this instance or of all that answer on its port together."""

DAYS: Final = 30
"""How far back sums are shown."""

BATCHES_MAX: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """What the ledger says of the last days."""

    total: Sums
    days: Mapping[str, Sums]
    """By ISO date, every day of the time, oldest first."""

    lanes: Mapping[str, Sums]
    rules: Mapping[str, Sums]
    """By what decided: `header:…` or `rule:NAME`."""

    models: Mapping[tuple[str, str], Sums] = field(default_factory=dict)
    """By upstream and model, the dearest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Everything at a glance."""

    money: Money
    heads: Sequence[Head]
    live: Sequence[Batch]
    paused: Sequence[Credential]
    webhooks: Mapping[str, Standing]
    missed: Mapping[str, int]
    """Deadlines missed by cause, since the start."""

    policies_refused: bool
    silent: Mapping[str, datetime] = field(default_factory=dict)
    """When upstreams gave this instance no answer the last time, by their names."""

    takes_writes: bool = True
    """Whether the store, which can be read, also took what was written lately."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever deferred here, as far as anybody remembers."""
        return not self.money.total.jobs and not self.heads and not self.live


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleView:
    """One rule and what it did, on this instance since it started."""

    rule: Rule
    live: int = 0
    shadow: int = 0
    forwarded: int = 0
    """Calls that it diverted and that were forwarded, since no job could be made."""

    booked: Sums = field(default_factory=Sums)
    """What its jobs came to in the last days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turnaround:
    """How long the batches of one model took lately, from submission to their end."""

    upstream: str
    model: str
    took: Sequence[timedelta]
    """Shortest first; of batches that came to their end by themselves."""

    last_ended_at: datetime
    expected: Spread
    """What the planner makes of these and of older ones, for a batch that begins now."""

    def quantile(self, share: float) -> timedelta:
        """Return within what time that share of them had ended."""
        return self.took[min(len(self.took) - 1, int(share * len(self.took)))]


class Insight:
    """Reads the stores for people."""

    def __init__(
        self,
        ground: Ground,
        *,
        ledger: LedgerStore,
        counts: Counts,
        expects: Callable[[BatchKey, datetime], Spread],
        policy: Callable[[], Policy] | None,
        webhooks: Sequence[str],
    ) -> None:
        """`expects` says how long a batch takes; `policy` is nothing where there are no rules."""
        self._ground = ground
        self._ledger = ledger
        self._search = JobSearch(jobs=ground.jobs, ledger=ledger, clock=ground.clock)
        self._counts = counts
        self._expects = expects
        self._policy = policy
        self._webhooks = webhooks

    def now(self) -> datetime:
        """Return the time that everything here is as of."""
        return self._ground.now()

    async def overview(self) -> Overview:
        """Return everything at a glance."""
        counts = await self._counts(["deadline_missed", "policies_refused"])
        return Overview(
            money=await self.money(),
            heads=await self._ground.batches.heads(),
            live=await self._ground.batches.live(),
            paused=[one for one in await self._ground.credentials.all() if one.paused_at],
            webhooks=await self.webhooks(),
            missed={cause: int(n) for (cause,), n in counts["deadline_missed"].items()},
            policies_refused=any(counts["policies_refused"].values()),
            silent=self._ground.troubles.silent(),
            takes_writes=self._ground.leases.is_noted(),
        )

    async def money(self) -> Money:
        """Return the sums of the last days."""
        today = self.now().date()
        dates = [today - timedelta(days=back) for back in reversed(range(DAYS))]
        rows = await self._ledger.rows(since=dates[0], until=today)
        # In a thread: tens of thousands of rows take a while, for which calls would wait.
        return await asyncio.to_thread(_money, rows, dates)

    async def batches(self, *, limit: int = BATCHES_MAX) -> Sequence[Batch]:
        """Return up to `limit` batches in any state, newest first."""
        return await self._ground.batches.recent(limit=limit)

    async def batch(self, wanted: str) -> Batch | None:
        """Return a batch by its ID, or by the provider's as far as it is a recent one."""
        found = await self._ground.batches.get(BatchId(wanted))
        if found is not None:
            return found
        recent = await self.batches()
        return next((batch for batch in recent if batch.provider_batch_id == wanted), None)

    async def job(self, job_id: str) -> tuple[Job, Batch | None] | None:
        """Return a job and the batch that it is or was last in."""
        if not is_job_id(job_id):
            return None
        try:
            job = await self._ground.jobs.get(JobId(job_id))
        except JobNotFoundError:
            return None
        batch = await self._ground.batches.get(job.batch_id) if job.batch_id else None
        return job, batch

    async def jobs(self, query: JobQuery) -> JobPage:
        """Return a page of jobs."""
        return await self._search.find(query)

    async def turnarounds(self) -> Sequence[Turnaround]:
        """Return how long batches took lately, by upstream and model."""
        seen: dict[tuple[str, str], list[Batch]] = {}
        for batch in await self.batches():
            if batch.submitted_at and batch.ended_at and ran_to_its_end(batch):
                seen.setdefault((batch.key.upstream, batch.key.model), []).append(batch)
        return [
            Turnaround(
                upstream=upstream,
                model=model,
                took=sorted(_took(batch) for batch in batches),
                last_ended_at=max(batch.ended_at for batch in batches if batch.ended_at),
                expected=self._expects(batches[0].key, self.now()),
            )
            for (upstream, model), batches in sorted(seen.items())
        ]

    async def webhooks(self) -> Mapping[str, Standing]:
        """Return how each configured webhook does."""
        return await self._ground.notices.standing(self._webhooks)

    async def rules(self) -> Sequence[RuleView] | None:
        """Return the rules in force, in their order; nothing where none are configured."""
        if self._policy is None:
            return None
        counts = await self._counts(["rule_matched", "rule_forwarded"])
        matched, failed = counts["rule_matched"], counts["rule_forwarded"]
        booked = (await self.money()).rules
        return [
            RuleView(
                rule=rule,
                live=_of_rule(matched, rule.name, "live"),
                shadow=_of_rule(matched, rule.name, "shadow"),
                forwarded=_of_rule(failed, rule.name),
                booked=booked.get(by_rule(rule.name), Sums()),
            )
            for rule in self._policy().rules.listed()
        ]


def _money(rows: Sequence[Booking], dates: Sequence[date]) -> Money:
    by_day = {day: sums for (day,), sums in broken_down(rows, ("day",)).items()}
    return Money(
        total=total(rows),
        days={str(day): by_day.get(str(day), Sums()) for day in dates},
        lanes={lane: sums for (lane,), sums in broken_down(rows, ("lane",)).items()},
        rules={rule: sums for (rule,), sums in broken_down(rows, ("rule",)).items()},
        models={
            (upstream, model): sums
            for (upstream, model), sums in broken_down(rows, ("upstream", "model")).items()
        },
    )


def counts_of(metrics: Metrics) -> Counts:
    """Return the counts of one instance."""

    async def counts(names: Sequence[str]) -> Mapping[str, Mapping[Labels, float]]:
        values = metrics.snapshot().values
        return {name: values.get(name, {}) for name in names}

    return counts


def is_live(batch: Batch) -> bool:
    """Return whether something is still to be done about a batch."""
    return batch.state is not BatchState.SETTLED


def _took(batch: Batch) -> timedelta:
    assert batch.submitted_at is not None
    assert batch.ended_at is not None
    return batch.ended_at - batch.submitted_at


def _of_rule(counts: Mapping[Labels, float], *labels: str) -> int:
    """Return the sum of all series whose first labels are these."""
    return int(sum(n for place, n in counts.items() if place[: len(labels)] == labels))
