"""What an instance knows of each upstream, as far as the choice of a lane needs it.

A lane is chosen when a job is accepted, flushed, called or read; every choice asks here.
None of them waits for the store: only `run_once` asks it, and keeps what it read.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from proxy.core.batch import Batch
from proxy.core.choice import LaneFacts
from proxy.core.dialects import DIALECTS
from proxy.core.ids import CredentialId
from proxy.core.lanes import BatchKey, Lane, LaneTimes, ModelAccess, cancel_at
from proxy.core.plan import Head
from proxy.core.prices import ModelPrice, Processing
from proxy.core.turnaround import USUAL_BATCH, Observation, Spread, Turnarounds
from proxy.core.upstream import Upstream
from proxy.ports.batches import UnbatchableStore
from proxy.ports.clock import Clock
from proxy.ports.notes import Note, NoteStore
from proxy.ports.provider import BatchLimits, Provider
from proxy.services.flex import FlexTier
from proxy.services.trickle import TrickleHours

log = structlog.get_logger()

TURNAROUNDS: Final = "turnarounds"
"""The name of the note that the fleet shares."""

ALMOST_ALL: Final = 0.99
"""The share of cancellations, and of calls in the discount tier, that must be over within
the time that is kept for them before a deadline."""

USUAL_SHARE: Final = 0.5
"""Of the full price, for batches and the discount tier alike."""

UNBATCHABLE_FOR: Final = timedelta(hours=24)
"""How long to wait before a model that a provider refused in batches is tried again."""

MAX_UNWRITTEN: Final = 1_000
"""Observations kept while the store is away; some batches then go unlearned."""


class Outlook:
    """Facts for the planner, and what observations make of them."""

    def __init__(  # noqa: PLR0913 - collaborators, each by its name
        self,
        *,
        notes: NoteStore,
        unbatchable: UnbatchableStore,
        providers: Mapping[str, Provider],
        upstreams: Mapping[str, Upstream],
        clock: Clock,
        times: LaneTimes | None = None,
        flex: FlexTier | None = None,
        trickle: TrickleHours | None = None,
        usual: Spread = USUAL_BATCH,
        price: Callable[[str, str], ModelPrice | None] = lambda *_: None,
    ) -> None:
        """`providers` has the batch API of each upstream that has one, by its name.

        Without `trickle` no job waits for a free moment. `usual` is how long batches take
        before any was observed. `price` knows what a model costs at an upstream, if
        anybody does.
        """
        self._price = price
        self._usual = usual
        self._notes = notes
        self._unbatchable_store = unbatchable
        self._providers = providers
        self._upstreams = upstreams
        self._clock = clock
        self._times = times or LaneTimes()
        self.flex = flex or FlexTier(upstreams)
        self._trickle = trickle
        self._unbatchable: Mapping[ModelAccess, datetime] = {}
        self._known = Turnarounds()
        self._slow: dict[str, LaneTimes] = {}
        """What `times` made of `_known`, by upstream: every accepted call asks."""

        self._changes = 0
        self._unwritten: list[Observation] = []
        self._waiting: Counter[tuple[Lane, CredentialId]] = Counter()
        """How many jobs of each credential wait in each lane."""

    @property
    def changes(self) -> int:
        """A number that grows whenever what is known here changes, other than by time passing."""
        return self._changes + self.flex.changes

    def knows(self, upstream: str) -> bool:
        """Return whether this instance is told of the upstream.

        During an upgrade only some of a fleet may be. An upstream that is not known here is
        left to the others; it must not be taken for one without batches.
        """
        return upstream in self._upstreams

    def facts(self, key: BatchKey, *, alone: bool = False) -> LaneFacts:
        """Return what the choice of a lane for jobs of `key` depends on now.

        `alone` says that they come from a run that makes one call at a time.
        """
        now, trickle, trickle_s = self._clock.now(), self._trickle, 0.0
        if trickle is not None:
            waiting = self._waiting.get((Lane.TRICKLE, key.credential), 0)
            trickle_s = waiting / trickle.calls_per_s
        price = self._price(key.upstream, key.model)
        flex_price = _share(price, Processing.FLEX)
        # In a dictionary, since accepted calls ask: `replace` takes half as long again.
        beside_batches: dict[str, Any] = {
            "has_flex": flex_price < 1 and self.flex.is_open(key, now=now),
            "flex_price": flex_price,
            "batch_price": _share(price, Processing.BATCH),
            "has_trickle": trickle is not None,
            "trickle_from": trickle.begins(now) if trickle is not None else None,
            "trickle_s": trickle_s,
            "alone": alone,
            "calls_waiting": self._waiting.get((Lane.INTERACTIVE, key.credential), 0),
            "times": self.times(key.upstream),
        }
        limits = self._batch_limits(key)
        if limits is None:
            return LaneFacts(has_batch=False, **beside_batches)
        return LaneFacts(
            has_batch=True,
            unbatchable_until=self._unbatchable.get(key.model_access),
            can_cancel=limits.can_cancel,
            keeps_partial_results=limits.keeps_partial_results,
            window=limits.window,
            turnaround=self.turnaround(key, now),
            **beside_batches,
        )

    def may_call(self, key: BatchKey) -> bool:
        """Return whether calls of `key` may begin now: whether its lane is open and has room."""
        now = self._clock.now()
        match key.lane:
            case Lane.TRICKLE:
                return self._trickle is not None and self._trickle.is_open(now)
            case Lane.FLEX:
                return self.flex.is_open(key, now=now)
            case _:
                return True

    def cancel_at(self, batch: Batch) -> datetime | None:
        """Return when the batch must be cancelled so that its jobs can be called in time.

        Nothing if none of them has a deadline.
        """
        if batch.nearest_deadline is None:
            return None
        times = self.times(batch.key.upstream)
        return cancel_at(batch.nearest_deadline, batch.count, times)

    def is_too_late(self, batch: Batch) -> bool:
        """Return whether what a batch leaves open could hardly be called in time any more."""
        end = self.cancel_at(batch)
        return end is not None and self._clock.now() >= end

    def times(self, upstream: str) -> LaneTimes:
        """Return how long things take.

        A cancellation at least as long as configured: the quick ones of good days say
        nothing about a bad one. The discount tier at most as long: then it is cut off.
        """
        known = self._slow.get(upstream)
        if known is None:
            cancel = self._known.cancel(upstream).quantile(ALMOST_ALL)
            flex = self._known.flex_call(upstream).quantile(ALMOST_ALL)
            known = replace(
                self._times,
                cancel=max(cancel, self._times.cancel),
                flex=min(flex, self._times.flex),
            )
            self._slow[upstream] = known
        return known

    def turnaround(self, key: BatchKey, began_at: datetime) -> Spread:
        """Return how long a batch of `key` that begins then takes."""
        return self._known.batch(key.upstream, key.model, began_at, self._usual)

    def saw_heads(self, heads: Iterable[Head]) -> None:
        """Note how many calls wait: the next one comes after them."""
        self._waiting = Counter()
        for head in heads:
            self._waiting[head.key.lane, head.key.credential] += head.count
        self._changes += 1

    def observe(self, news: Observation) -> None:
        """Learn from a batch that ended or stopped; the next pass makes it durable."""
        self._learned(self._known.learn([news]))
        if len(self._unwritten) < MAX_UNWRITTEN:
            self._unwritten.append(news)

    async def note_unbatchable(self, key: BatchKey, length: timedelta = UNBATCHABLE_FOR) -> None:
        """Remember for a while that the provider does not batch this model for this credential."""
        until = self._clock.now() + length
        await self._unbatchable_store.note(key.credential, key.endpoint, key.model, until=until)
        self._unbatchable = {**self._unbatchable, key.model_access: until}
        self._changes += 1

    async def run_once(self) -> int:
        """Read what the fleet knows, and add what this instance has seen since.

        Returns how much it has added.

        Raises:
            StoreError: if the store is away; what was known stays.
        """
        self._unbatchable = await self._unbatchable_store.known(now=self._clock.now())
        news = list(self._unwritten)
        note = await self._notes.read(TURNAROUNDS)
        known = _read(note).learn(news)
        if news:
            after = Note.after(note, json.dumps(known.to_json()))
            if not await self._notes.write(TURNAROUNDS, after):
                # Another instance was faster: the next pass adds it to theirs.
                return 0
            del self._unwritten[: len(news)]
        self._learned(known.learn(self._unwritten))
        return len(news)

    def _learned(self, known: Turnarounds) -> None:
        self._known = known
        self._slow.clear()
        self._changes += 1

    def _batch_limits(self, key: BatchKey) -> BatchLimits | None:
        """Return the limits on batches of `key`; nothing if there can be no such batch."""
        provider = self._providers.get(key.upstream)
        if provider is None or not self._is_batched(key):
            return None
        limits = provider.limits(key.endpoint)
        return limits if limits.batch_model(key.model) is not None else None

    def _is_batched(self, key: BatchKey) -> bool:
        upstream = self._upstreams.get(key.upstream)
        if upstream is None:
            return True
        endpoint = DIALECTS[upstream.dialect].endpoints.get(key.endpoint)
        return endpoint is None or endpoint.batched


def _share(price: ModelPrice | None, processing: Processing) -> float:
    """Return the share of the full price, or the usual one where it is not known."""
    known = price.share(processing) if price is not None else None
    return USUAL_SHARE if known is None else known


def _read(note: Note | None) -> Turnarounds:
    if note is None:
        return Turnarounds()
    try:
        return Turnarounds.from_json(json.loads(note.text))
    except (AttributeError, LookupError, TypeError, ValueError):
        # Damaged, or another version's: what it tells is learned anew within a day.
        log.warning("note.unread", name=TURNAROUNDS)
        return Turnarounds()
