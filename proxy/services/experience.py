"""What the fleet has learned of its upstreams: how long things take, and what is not batched.

Each instance learns from its own batches and calls, and shares that through the store. Only
passes wait for the store; whoever asks is told what this instance knows.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

import structlog

from proxy.core.lanes import BatchKey, LaneTimes, ModelAccess
from proxy.core.turnaround import USUAL_BATCH, Observation, Spread, Turnarounds
from proxy.ports.batches import UnbatchableStore
from proxy.ports.clock import Clock
from proxy.ports.notes import Note, NoteStore

log = structlog.get_logger()

TURNAROUNDS: Final = "turnarounds"
"""The name of the note that the fleet shares."""

ALMOST_ALL: Final = 0.99
"""The share of cancellations, and of calls in the discount tier, that must be over within
the time that is kept for them before a deadline."""

UNBATCHABLE_FOR: Final = timedelta(hours=24)
"""How long to wait before a model that a provider refused in batches is tried again."""

MAX_UNWRITTEN: Final = 1_000
"""Observations kept while the store is away; some batches then go unlearned."""


class Experience:
    """What this instance knows; `run_once` exchanges it with the others."""

    def __init__(
        self,
        *,
        notes: NoteStore,
        unbatchable: UnbatchableStore,
        clock: Clock,
        times: LaneTimes | None = None,
        usual: Spread = USUAL_BATCH,
    ) -> None:
        """`times` are as configured; `usual` is how long batches take before any was observed."""
        self._notes = notes
        self._unbatchable_store = unbatchable
        self._clock = clock
        self._times = times or LaneTimes()
        self._usual = usual
        self._unbatchable: Mapping[ModelAccess, datetime] = {}
        self._known = Turnarounds()
        self._times_of: dict[str, LaneTimes] = {}
        """What `times` returns for each upstream: every accepted call asks."""

        self._unwritten: list[Observation] = []
        self.changes = 0
        """Grows with every change of what is known here."""

    def times(self, upstream: str) -> LaneTimes:
        """Return how long things take.

        A cancellation at least as long as configured: the quick ones of good days say
        nothing about a bad one. The discount tier at most as long: then it is cut off.
        """
        known = self._times_of.get(upstream)
        if known is None:
            cancel = self._known.cancel(upstream).quantile(ALMOST_ALL)
            flex = self._known.flex_call(upstream).quantile(ALMOST_ALL)
            known = replace(
                self._times,
                cancel=max(cancel, self._times.cancel),
                flex=min(flex, self._times.flex),
            )
            self._times_of[upstream] = known
        return known

    def turnaround(self, key: BatchKey, began_at: datetime) -> Spread:
        """Return how long a batch of `key` that begins then takes."""
        return self._known.batch(key.upstream, key.model, began_at, self._usual)

    def unbatchable_until(self, key: BatchKey) -> datetime | None:
        """Return until when the model is not batched for this credential, if it is not."""
        return self._unbatchable.get(key.model_access)

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
        self.changes += 1

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
        self._times_of.clear()
        self.changes += 1


def _read(note: Note | None) -> Turnarounds:
    if note is None:
        return Turnarounds()
    try:
        return Turnarounds.from_json(json.loads(note.text))
    except (AttributeError, LookupError, TypeError, ValueError):
        # Damaged, or another version's: what it tells is learned anew within a day.
        log.warning("note.unread", name=TURNAROUNDS)
        return Turnarounds()
