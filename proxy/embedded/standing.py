"""How far the calls of a command are, in numbers and in words."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from proxy.app import Running
from proxy.core.batch import Batch, BatchState
from proxy.core.lanes import Lane, rough_duration
from proxy.core.plural import plural
from proxy.ports.jobs import Credential

_UNSENT = frozenset({BatchState.FILLING, BatchState.SEALED, BatchState.SUBMITTING})
_UNSENT_FOR = timedelta(seconds=20)
"""A large upload takes some seconds; a provider that is away takes none."""

_AT_PROVIDER = frozenset({BatchState.IN_PROGRESS, BatchState.CANCELLING, BatchState.LOST})


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where calls and jobs are at one moment."""

    answered: int
    """Deferred calls that have their answer, those of an earlier start included."""

    forwarded: int
    """Calls that went straight through, and were answered."""

    held: int
    """Calls whose connection waits for its answer now."""

    queued: int
    """Jobs that wait to be sent."""

    batched: int
    """Jobs in batches that are not settled."""

    batches: int
    sent_at: datetime | None
    """Since when the oldest of the batches is at its provider."""

    direct: int
    """Jobs that are called directly, or are going to be."""

    alone: int
    """Calls that were made directly because each came alone."""

    troubles: tuple[str, ...] = ()
    """What keeps calls from their answers, in words, if anything does."""

    @property
    def pending(self) -> int:
        """How many jobs have not ended."""
        return self.queued + self.batched + self.direct


async def standing(proxy: Running) -> Standing:
    """Return how things stand.

    Raises:
        StoreError: if the store does not tell.
    """
    batches = proxy.house.ground.batches
    heads, live = await batches.heads(), await batches.live()
    open_batches = [batch for batch in live if batch.ended_at is None]
    sent = [batch.submitted_at for batch in open_batches if batch.state in _AT_PROVIDER]
    escalating = await proxy.house.ground.queue.escalating(limit=10_000)
    credentials = await proxy.house.ground.credentials.all()
    metrics = proxy.metrics
    direct = sum(head.count for head in heads if head.key.lane is not Lane.BATCH) + len(escalating)
    said = proxy.house.ground.troubles.all() if direct or open_batches else {}
    return Standing(
        answered=int(metrics.value("calls", decision="defer", outcome="answered")),
        forwarded=int(metrics.value("calls", decision="forward", outcome="completed")),
        held=proxy.house.holding.count,
        queued=sum(head.count for head in heads if head.key.lane is Lane.BATCH),
        batched=sum(batch.count for batch in open_batches),
        batches=len(open_batches),
        sent_at=min((at for at in sent if at is not None), default=None),
        direct=direct,
        alone=int(metrics.value("calls_alone")),
        troubles=troubles(credentials, open_batches, said, now=proxy.house.ground.now()),
    )


def troubles(
    credentials: Iterable[Credential],
    batches: Iterable[Batch],
    said: Mapping[str, str],
    *,
    now: datetime,
) -> tuple[str, ...]:
    """Return what a user could do something about: a key, or the way to the provider.

    `said` is why upstreams do not answer, by their names.
    """
    paused = [one for one in credentials if one.paused_at is not None]
    refused = [f"{one.upstream} refuses the key (HTTP {one.pause_status})" for one in paused]
    unsent: dict[str, timedelta] = {}
    for batch in batches:
        waited = now - batch.created_at
        if batch.state in _UNSENT and waited > _UNSENT_FOR:
            longest = max(waited, unsent.get(batch.key.upstream, waited))
            unsent[batch.key.upstream] = longest
    refused += [
        f"{upstream} has not taken a batch for {rough_duration(waited)}"
        + (f": {said[upstream]}" if upstream in said else "")
        for upstream, waited in unsent.items()
    ]
    # A refused key is told above, in fewer words.
    told = {one.upstream for one in paused} | unsent.keys()
    refused += [f"{name} does not answer: {said[name]}" for name in said if name not in told]
    return tuple(refused)


def in_words(now_at: Standing, *, now: datetime) -> str:
    """Return one line for people, the most important first: what is cut is least missed."""
    total = now_at.answered + now_at.held
    parts = [*now_at.troubles, f"{now_at.answered:,} of {plural(total, 'call')} answered"]
    if now_at.batched:
        since = ""
        if now_at.sent_at is not None:
            ago = rough_duration(max(now - now_at.sent_at, timedelta(seconds=1)))
            since = f", sent {ago} ago"
        parts.append(f"{now_at.batched:,} in {plural(now_at.batches, 'batch', 'batches')}{since}")
    if now_at.queued:
        parts.append(f"{now_at.queued:,} waiting for a batch")
    if now_at.direct:
        parts.append(f"{now_at.direct:,} called directly")
    return "offramp: " + " · ".join(parts)
