"""Decide what is due; never do it.

Each function takes a snapshot and the time and returns plain data that says what
a service must do. The services do it; the tests read the data.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from proxy.core.batch import Batch, BatchState
from proxy.core.choice import LaneFacts, choose_lane
from proxy.core.ids import CredentialId
from proxy.core.lanes import BatchKey, Lane, LaneChoice, ProviderQueue, cancel_at
from proxy.core.turnaround import Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """All queued jobs of one batch key, in one row. A planner reads no jobs."""

    key: BatchKey
    count: int
    body_bytes: int
    tokens: int
    oldest_at: datetime
    """Since when the oldest is ready; in the future if all of them pause."""

    newest_at: datetime
    nearest_deadline: datetime
    held: int = 0
    """How many of them hold their caller's connection."""

    small_batches: int = 0
    """How many batches of this key in a row were below the worth of one."""

    paused: bool = False
    """Whether the lane of the credential is paused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlushLimits:
    """When the queued jobs of one batch key are worth a batch, and how much fits."""

    max_requests: int
    max_bytes: int
    max_tokens: int | None = None
    """Estimated prompt tokens that may be enqueued per credential and model."""

    linger: timedelta = timedelta(seconds=60)
    linger_max: timedelta = timedelta(minutes=15)
    worth: int = 10
    """Below this many jobs a batch saves less than its overhead and polls cost."""

    idle: timedelta = timedelta(seconds=2)
    """With every caller held, how long none may have arrived before a flush."""

    max_open: int = 20
    """Batches of one credential and model that may be open at once."""


@dataclass(frozen=True, slots=True)
class Flush:
    """Claim jobs of `key`, oldest first, into one batch of at most this much."""

    key: BatchKey
    reason: str
    max_requests: int
    max_bytes: int
    max_tokens: int | None


@dataclass(frozen=True, slots=True)
class Reroute:
    """Choose a lane anew, by `facts`, for the jobs of `key` with a deadline before `before`."""

    key: BatchKey
    before: datetime
    facts: LaneFacts


_OPEN: Final = frozenset(BatchState) - {BatchState.ENDED, BatchState.SETTLED}


@dataclass(frozen=True, slots=True)
class OpenBatches:
    """What is under way in one provider queue."""

    count: int = 0
    tokens: int = 0


def open_batches(batches: Iterable[Batch]) -> Mapping[ProviderQueue, OpenBatches]:
    """Sum up the batches that have not ended."""
    sums: dict[ProviderQueue, OpenBatches] = {}
    for batch in batches:
        if batch.state in _OPEN:
            queue = batch.key.provider_queue
            seen = sums.get(queue, OpenBatches())
            sums[queue] = OpenBatches(seen.count + 1, seen.tokens + batch.tokens)
    return sums


_ENQUEUED: Final = frozenset({BatchState.IN_PROGRESS, BatchState.CANCELLING})


def enqueued(batches: Iterable[Batch], queue: ProviderQueue) -> int:
    """Return the tokens that the provider has in this queue."""
    return sum(
        batch.tokens
        for batch in batches
        if batch.state in _ENQUEUED and batch.key.provider_queue == queue
    )


def due_flush(
    head: Head, under_way: OpenBatches, *, now: datetime, limits: FlushLimits, facts: LaneFacts
) -> Flush | None:
    """Return the batch that `head` is due for, or nothing yet.

    Only what is under way of the same credential and model counts against it:
    one tenant's flood, or a paused key's, holds up nobody else.
    """
    if head.paused or head.count == 0 or head.oldest_at > now:
        return None
    if under_way.count >= limits.max_open:
        return None
    free = None
    if limits.max_tokens is not None:
        # With nothing under way even an oversized job may try: the provider's
        # own limit, not our estimate, must have the last word.
        if is_crowded(head, under_way, limits.max_tokens):
            return None
        free = free_tokens(limits.max_tokens, under_way)
    reason = _due_reason(head, now=now, limits=limits, facts=facts)
    if reason is None:
        return None
    return Flush(head.key, reason, limits.max_requests, limits.max_bytes, free)


def free_tokens(max_tokens: int, under_way: OpenBatches) -> int:
    """Return how many tokens the next batch may have beside those under way; at least one."""
    return max(max_tokens - under_way.tokens, 1)


def is_crowded(head: Head, under_way: OpenBatches, max_tokens: int) -> bool:
    """Return whether the batches under way leave no room for another worth its while."""
    free = max_tokens - under_way.tokens
    return under_way.count > 0 and free < min(head.tokens, max_tokens // 10)


_PATIENCE: Final = 4
"""How many usual turnarounds a batch may still take before others are preferred to it."""


def is_straggler(batch: Batch, turnaround: Spread, *, now: datetime) -> bool:
    """Return whether a batch takes so long that another would probably be quicker.

    While it runs, its tokens keep others out. What it has finished is kept, and the rest
    costs nothing.
    """
    if batch.submitted_at is None:
        return False
    age = now - batch.submitted_at
    left = turnaround.quantile(0.5, after=age) - age
    return left > _PATIENCE * turnaround.quantile(0.5)


_BETTER: Final = 0.2
"""By how much a second batch must be the better bet: a change costs requests and time."""


def is_worth_another(batch: Batch, facts: LaneFacts, *, now: datetime) -> bool:
    """Return whether a new batch of the rest has the better chance to make the deadline.

    Most batches take minutes and few take hours: one that has taken long will go on for
    long. Stopped while there is time for another, it costs nothing but what is left of
    the time; stopped at the last moment, its rest is called at full price.
    """
    if batch.submitted_at is None or batch.nearest_deadline is None:
        return False
    age = now - batch.submitted_at
    gone = facts.turnaround.chance_within(age)
    last = cancel_at(batch.nearest_deadline, batch.count, facts.times)
    if gone >= 1 or last <= now:
        return False
    stay = (facts.turnaround.chance_within(last - batch.submitted_at) - gone) / (1 - gone)
    again = facts.turnaround.chance_within(last - now - facts.times.cancel)
    return again > stay + _BETTER


def _due_reason(head: Head, *, now: datetime, limits: FlushLimits, facts: LaneFacts) -> str | None:
    if head.count >= limits.max_requests or head.body_bytes >= limits.max_bytes:
        return "full"
    if limits.max_tokens is not None and head.tokens >= limits.max_tokens:
        return "full"
    if head.held == head.count and now - head.newest_at >= limits.idle:
        return "all callers held"
    waited = now - head.oldest_at
    if head.nearest_deadline - now <= facts.batch_slack + limits.linger_max and (
        waited >= limits.idle
    ):
        return "deadline"
    linger = limits.linger
    if head.count < limits.worth:
        # Otherwise ten calls a minute would make 1,440 batches a day.
        linger = min(limits.linger * 2 ** min(head.small_batches, 10), limits.linger_max)
    return "linger" if waited >= linger else None


def due_reroute(head: Head, facts: LaneFacts, *, now: datetime) -> Reroute | None:
    """Return which queued jobs of `head` must leave their lane, or none.

    Those must leave whose slack would soon be too short for their lane, given that all of them may
    have to be called directly. Jobs of a paused credential wait on, since no lane would take them.
    """
    if head.paused or head.key.lane is Lane.INTERACTIVE:
        return None
    facts = replace(facts, calls_waiting=facts.calls_waiting + head.count, trickle_s=0.0)
    if not facts.offers(head.key.lane, now=now):
        # A model that is refused in batches, a tier that is full: no deadline is waited for.
        before = _EVER
    elif head.key.lane is Lane.BATCH:
        before = now + facts.batch_slack
    elif head.key.lane is Lane.FLEX:
        before = now + _flex_slack(facts)
        facts = facts.without(Lane.FLEX)
    else:
        before = now + facts.reserve
    return Reroute(head.key, before, facts) if head.nearest_deadline <= before else None


_EVER: Final = datetime.max.replace(tzinfo=UTC)


def next_choice(
    lane: Lane, deadline: datetime, facts: LaneFacts, *, now: datetime
) -> LaneChoice | None:
    """Return the lane that a queued job moves to, by the facts of its `Reroute`; none: it stays."""
    if lane is Lane.TRICKLE:
        # Whatever kept it from a cheaper lane still does.
        facts = facts.without(Lane.BATCH).without(Lane.FLEX)
    choice = choose_lane(deadline, facts, now=now)
    if choice.lane is lane:
        return None
    is_patient = lane is Lane.FLEX and deadline - now > _flex_slack(facts)
    # The tier may have room again before only the full price is left.
    return None if is_patient and choice.lane is Lane.INTERACTIVE else choice


def _flex_slack(facts: LaneFacts) -> timedelta:
    return facts.times.flex_slack + facts.times.calls(facts.calls_waiting)


def yields_to_flex(
    head: Head, facts: LaneFacts, *, now: datetime, limits: FlushLimits
) -> LaneChoice | None:
    """Return the choice of the discount tier, if the few jobs of a due head should go there."""
    if head.count >= limits.worth or not facts.has_flex or facts.flex_price > facts.batch_price:
        return None
    if head.nearest_deadline - now <= facts.times.flex_slack:
        return None
    return LaneChoice(Lane.FLEX, f"fewer than {limits.worth} jobs are no batch")


def fair_order(heads: Sequence[Head]) -> list[Head]:
    """Return `heads` so that the credentials take turns, each the most urgent first.

    Work that is cut off after any number of heads has then served every
    credential about equally.
    """
    ranks: dict[CredentialId, int] = {}
    ranked = []
    for head in sorted(heads, key=lambda head: head.nearest_deadline):
        rank = ranks.get(head.key.credential, 0)
        ranks[head.key.credential] = rank + 1
        ranked.append((rank, head))
    return [head for _, head in sorted(ranked, key=lambda pair: pair[0])]


@dataclass(frozen=True, slots=True, kw_only=True)
class PollPace:
    """How often a provider batch is asked for its status."""

    interval: timedelta = timedelta(seconds=30)
    first: timedelta = timedelta(seconds=10)
    slowest: timedelta = timedelta(minutes=5)

    def no_faster_than(self, floor: timedelta) -> "PollPace":
        """Return this pace, slowed for a provider that wants `floor` between two polls.

        The first poll is not delayed.
        """
        return replace(self, interval=max(self.interval, floor), slowest=max(self.slowest, floor))


def next_poll(batch: Batch, pace: PollPace, *, now: datetime, jitter: float) -> datetime:
    """Return when to ask for the status of `batch` again.

    Soon at first, since most batches end within minutes; then ever more slowly
    with its age, up to `pace.slowest`. `jitter` is a factor around 1.0 that the
    caller draws.
    """
    age = now - (batch.submitted_at or now)
    if batch.polls == 0 and age < pace.interval:
        pause = min(pace.first, pace.interval)
    else:
        pause = min(max(pace.interval, age / 20), max(pace.slowest, pace.interval))
    return now + pause * jitter
