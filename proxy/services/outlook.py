"""What an instance knows of each upstream, as far as the choice of a lane needs it.

A lane is chosen when a job is accepted, flushed, called or read; every choice asks here.
None of them waits for the store.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from proxy.core.batch import Batch
from proxy.core.choice import LaneFacts
from proxy.core.dialects import DIALECTS
from proxy.core.ids import CredentialId
from proxy.core.lanes import BatchKey, Lane, cancel_at
from proxy.core.plan import Head
from proxy.core.prices import ModelPrice, PriceOf, Processing
from proxy.core.upstream import Upstream
from proxy.ports.clock import Clock
from proxy.ports.provider import BatchLimits, Provider
from proxy.services.experience import Experience
from proxy.services.flex import FlexTier
from proxy.services.trickle import TrickleHours

USUAL_SHARE: Final = 0.5
"""The share of the full price, for batches and the discount tier alike."""


class Outlook:
    """Facts for the planner, from what is configured and what is known now."""

    def __init__(
        self,
        experience: Experience,
        *,
        providers: Mapping[str, Provider],
        upstreams: Mapping[str, Upstream],
        clock: Clock,
        flex: FlexTier | None = None,
        trickle: TrickleHours | None = None,
        price: PriceOf = lambda *_: None,
    ) -> None:
        """`providers` has the batch API of each upstream that has one, by its name.

        Without `trickle` no job waits for a free moment. `price` knows what a model costs
        at an upstream, if anybody does.
        """
        self.experience = experience
        self.flex = flex or FlexTier(upstreams)
        self._providers = providers
        self._upstreams = upstreams
        self._clock = clock
        self._trickle = trickle
        self._price = price
        self._waiting: Counter[tuple[Lane, CredentialId]] = Counter()
        """How many jobs of each credential wait in each lane."""

        self._changes = 0

    @property
    def changes(self) -> int:
        """A number that grows whenever what is known here changes, other than by time passing."""
        return self._changes + self.experience.changes + self.flex.changes

    def knows(self, upstream: str) -> bool:
        """Return whether the upstream is configured here.

        During an upgrade it may be so at some of a fleet only. An upstream that is not known here
        is left to the others; it must not be taken for one without batches.
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
            "times": self.experience.times(key.upstream),
        }
        limits = self._batch_limits(key)
        if limits is None:
            return LaneFacts(has_batch=False, **beside_batches)
        return LaneFacts(
            has_batch=True,
            unbatchable_until=self.experience.unbatchable_until(key),
            can_cancel=limits.can_cancel,
            keeps_partial_results=limits.keeps_partial_results,
            window=limits.window,
            turnaround=self.experience.turnaround(key, now),
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
        times = self.experience.times(batch.key.upstream)
        return cancel_at(batch.nearest_deadline, batch.count, times)

    def is_too_late(self, batch: Batch) -> bool:
        """Return whether what a batch leaves open could hardly be called in time any more."""
        end = self.cancel_at(batch)
        return end is not None and self._clock.now() >= end

    def saw_heads(self, heads: Iterable[Head]) -> None:
        """Note how many calls wait: the next one comes after them."""
        self._waiting = Counter()
        for head in heads:
            self._waiting[head.key.lane, head.key.credential] += head.count
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
