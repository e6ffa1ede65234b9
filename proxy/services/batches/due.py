"""Which batches are due, also after the clock on the wall was set back."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Final

from proxy.core.batch import Batch, BatchState
from proxy.core.ids import BatchId
from proxy.ports.clock import Clock
from proxy.services.clock_steps import ClockSteps

SET_BACK: Final = timedelta(minutes=1)
"""By how much the clock must have been set back to matter: by less, pauses are a minute longer."""

_HARMLESS: Final = frozenset(
    {BatchState.SEALED, BatchState.IN_PROGRESS, BatchState.CANCELLING, BatchState.ENDED}
)
"""Where to come too early costs a question. A create in doubt, and a batch that is missed, are
given the time in which they may turn up: asked for too early, they would be bought again."""


class DueBatches:
    """Tells which batches are due. Remembers, of those that wait for a time of the clock as it
    was before it was set back, for which: else they would wait for as long as it was wrong.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._steps = ClockSteps(clock)
        self._by_old_time: dict[BatchId, datetime] = {}

    def among(self, live: Sequence[Batch], states: Collection[BatchState]) -> list[Batch]:
        """Return the due ones of `live` that are in one of `states`; `live` are all there are."""
        now = self._clock.now()
        waiting = {batch.id: batch for batch in live if batch.next_at and batch.next_at > now}
        if self._steps.since_last() < -SET_BACK:
            self._by_old_time |= {
                batch.id: batch.next_at
                for batch in waiting.values()
                if batch.next_at and batch.state in _HARMLESS
            }
        self._by_old_time = {
            batch_id: at
            for batch_id, at in self._by_old_time.items()
            if batch_id in waiting and waiting[batch_id].next_at == at
        }
        return [
            batch
            for batch in live
            if batch.state in states and (batch.id not in waiting or batch.id in self._by_old_time)
        ]
