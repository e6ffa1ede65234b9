"""What somebody should look at, gravest first, in a sentence each and with what to do."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from proxy.core.batch import BatchState
from proxy.core.lanes import Lane
from proxy.core.plural import plural
from proxy.services.insight import Overview
from proxy.web.dashboard.about import About
from proxy.web.dashboard.words import ago, clock, money

Level = Literal["bad", "odd"]

_UNSENT: Final = frozenset({BatchState.FILLING, BatchState.SEALED, BatchState.SUBMITTING})

STUCK_AFTER: Final = timedelta(hours=2)
"""How long a job may wait for its batch before that is odd, as in the alert of that name, and
how long after its end a batch may be unread."""


@dataclass(frozen=True, slots=True)
class Concern:
    """One thing to look at."""

    level: Level
    said: str
    advice: str
    page: str = ""
    """Where to read on, below `/dashboard`."""


def concerns(seen: Overview, now: datetime, about: About) -> Sequence[Concern]:
    """Return everything that is not as it should be."""
    found = [
        *_instance(seen, about),
        *_paused(seen),
        *_stranded(seen, about),
        *_silent(seen),
        *_queue(seen, now),
        *_lost(seen),
        *_unread(seen, now),
        *_missed(seen),
        *_failed(seen, now),
        *_money(seen),
        *_webhooks(seen, now),
    ]
    return sorted(found, key=lambda one: one.level)


def _instance(seen: Overview, about: About) -> Iterator[Concern]:
    if not seen.takes_writes:
        yield Concern(
            "bad",
            "The store takes nothing that is written: no call is deferred, and no job goes on.",
            "The log lines pass.failed say why, such as a full disk.",
        )
    if about.is_ephemeral:
        yield Concern(
            "odd",
            "The store goes with this machine: only calls that are held open are deferred.",
            "Give it a volume or a Redis, and take durability: ephemeral away, to promise more.",
        )
    elif not about.is_durable:
        yield Concern(
            "bad",
            f"Jobs may not outlive a crash: {about.durability}.",
            "Let Redis write before it answers (appendonly yes, appendfsync always).",
        )
    if seen.policies_refused:
        yield Concern(
            "odd",
            "The rule file cannot be used; the rules from before hold.",
            "The log line policies.kept says where it is at fault.",
            "rules",
        )


def _paused(seen: Overview) -> Iterator[Concern]:
    for one in seen.paused:
        waiting = sum(head.count for head in seen.heads if head.key.credential == one.id)
        status = f" with {one.pause_status}" if one.pause_status else ""
        yield Concern(
            "bad",
            f"{one.upstream} refuses a credential{status} since {clock(one.paused_at)}; "
            f"waiting for it: {plural(waiting, 'job')}.",
            "Top up the account, or let the owner make a call with a new key.",
            "jobs?status=queued",
        )


def _stranded(seen: Overview, about: About) -> Iterator[Concern]:
    for upstream, jobs in _waiting(seen).items():
        if upstream in about.upstreams:
            continue
        yield Concern(
            "bad",
            f"Upstream {upstream} is not configured here; waiting for it: {plural(jobs, 'job')}.",
            "Configure it again, or they wait until their deadlines; another instance may have it.",
            "jobs?status=queued",
        )


def _silent(seen: Overview) -> Iterator[Concern]:
    waiting = _waiting(seen)
    for batch in seen.live:
        if batch.state in _UNSENT:
            waiting[batch.key.upstream] += batch.count
    for upstream, at in seen.silent.items():
        if waiting[upstream]:
            yield Concern(
                "odd",
                f"{upstream} did not answer when it was last asked, at {clock(at)}; "
                f"waiting for it: {plural(waiting[upstream], 'job')}.",
                "They go on by themselves once it does; the log lines call.unanswered and "
                "batch.put_back say why not.",
                "jobs?status=queued",
            )


def _waiting(seen: Overview) -> Counter[str]:
    """Return how many jobs wait in queues, by their upstreams."""
    waiting = Counter[str]()
    for head in seen.heads:
        waiting[head.key.upstream] += head.count
    return waiting


def _queue(seen: Overview, now: datetime) -> Iterator[Concern]:
    for head in seen.heads:
        place = f"lane {head.key.lane.value} of {head.key.upstream}"
        if head.nearest_deadline <= now:
            yield Concern(
                "bad",
                f"A job in {place} still waits although its deadline was "
                f"{ago(head.nearest_deadline, now)}.",
                "Look for a paused credential, for direct calls at their caps (lanes.*), and for "
                "jobs that cannot be read (line record.unread).",
                "jobs?status=queued",
            )
        elif head.key.lane is Lane.BATCH and now - head.oldest_at > STUCK_AFTER:
            yield Concern(
                "odd",
                f"The oldest job in {place} was ready {ago(head.oldest_at, now)}, "
                "and is in no batch.",
                "Look for the provider's limit of enqueued tokens (line batch.throttled).",
                "jobs?status=queued",
            )


def _lost(seen: Overview) -> Iterator[Concern]:
    lost = sum(batch.state is BatchState.LOST for batch in seen.live)
    if lost:
        yield Concern(
            "bad",
            f"{plural(lost, 'batch', 'batches')} cannot be found at the provider any more.",
            "Their jobs run again in another lane; ask the provider whether it billed them.",
            "batches",
        )


def _unread(seen: Overview, now: datetime) -> Iterator[Concern]:
    stuck = sum(
        batch.state is BatchState.ENDED
        and batch.harvested_at is None
        and batch.ended_at is not None
        and now - batch.ended_at > STUCK_AFTER
        for batch in seen.live
    )
    if stuck:
        yield Concern(
            "bad",
            f"{plural(stuck, 'batch', 'batches')} ended hours ago, and not all results are read "
            "and written down.",
            "The lines step.failed and batch.unreadable say why; jobs without an answer wait on.",
            "batches",
        )


def _missed(seen: Overview) -> Iterator[Concern]:
    for cause, missed in seen.missed.items():
        yield Concern(
            "odd",
            f"{plural(missed, 'deadline')} missed since the start ({_CAUSES.get(cause, cause)}).",
            "Give such calls a later deadline, or the lanes more room (lanes.*).",
            "jobs",
        )


_CAUSES: Final = {
    "queued": "nothing could run the jobs in time",
    "in_flight": "the provider was slower than expected",
    "retried": "the provider failed the jobs before",
}


MANY_FAILED: Final = 10
"""Fewer failed jobs of a day are single callers' mistakes, and the same if under a tenth of all."""


def _failed(seen: Overview, now: datetime) -> Iterator[Concern]:
    today = seen.money.days.get(now.date().isoformat())
    if today is None:
        return
    failed = today.jobs - today.answers - today.expired
    if failed >= max(MANY_FAILED, today.jobs / 10):
        yield Concern(
            "odd",
            f"{failed:,} of {plural(today.jobs, 'job')} that ended today failed or were cancelled.",
            "Each says why; a model or a body that a provider refuses is its caller's to mend.",
            "jobs?status=failed",
        )


def _money(seen: Overview) -> Iterator[Concern]:
    sums = seen.money.total
    if sums.possible_doubles:
        yield Concern(
            "odd",
            f"{plural(sums.possible_doubles, 'call')} may have been paid for twice or in vain, "
            f"{sums.price_of_doubles(money)}.",
            "A crash or a silent provider cut them off; compare with the provider's bill.",
        )
    if sums.useless:
        yield Concern(
            "odd",
            f"{plural(sums.useless, 'answer')} bought in vain, for {money(sums.useless_nano)}.",
            "Their jobs had been cancelled or answered already. It is counted against the savings.",
        )


def _webhooks(seen: Overview, now: datetime) -> Iterator[Concern]:
    for name, standing in seen.webhooks.items():
        if standing.given_up:
            yield Concern(
                "bad",
                f"Webhook {name} was never told of {plural(standing.given_up, 'job')}.",
                "Ten attempts in three days failed. POST /webhooks/NAME/revive sends them again.",
                "webhooks",
            )
        elif is_failing(standing.delivered_at, standing.failed_at) and standing.pending:
            last = f"last did {ago(standing.delivered_at, now)}"
            so_far = last if standing.delivered_at else "never did so far"
            yield Concern(
                "odd",
                f"Webhook {name} does not answer ({standing.last_failure}); it {so_far}.",
                f"{plural(standing.pending, 'notice')} will be tried again.",
                "webhooks",
            )


def is_failing(delivered_at: datetime | None, failed_at: datetime | None) -> bool:
    """Return whether the last that is known of a webhook is a failure."""
    return failed_at is not None and (delivered_at is None or failed_at > delivered_at)
