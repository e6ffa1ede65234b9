"""How much may be called at full price in an hour, per credential, by the whole fleet.

It protects from an outage of batches that would send a day's work through at twice its
price: what is over the budget waits for the next hour, and at its deadline it expires.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from proxy.core.ids import CredentialId
from proxy.core.job import Job
from proxy.ports.clock import Clock
from proxy.ports.notes import Note, NoteStore

log = structlog.get_logger()

BUDGETS: Final = "budgets"
"""The name of the note that the fleet shares."""

RACES: Final = 5
"""How often a reservation that lost a race is made again in one pass."""


@dataclass(frozen=True, slots=True)
class HourlyLimits:
    """What one credential may spend in an hour of the clock; as much as it likes if nothing."""

    calls: int | None = None
    tokens: int | None = None
    """Estimated prompt tokens."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a credential has spent in the hour."""

    calls: int = 0
    tokens: int = 0

    def plus(self, jobs: Sequence[Job], limits: HourlyLimits) -> "Spent":
        """Return what is spent with as many of these, in their order, as there is room for."""
        calls, tokens = self.calls, self.tokens
        for job in jobs:
            if limits.calls is not None and calls >= limits.calls:
                break
            # The first of an hour goes through, whatever its size: it would never fit otherwise.
            if limits.tokens is not None and tokens and tokens + job.tokens > limits.tokens:
                break
            calls, tokens = calls + 1, tokens + job.tokens
        return Spent(calls, tokens)

    def less(self, jobs: Sequence[Job]) -> "Spent":
        """Return what is spent without these."""
        tokens = sum(job.tokens for job in jobs)
        return Spent(max(0, self.calls - len(jobs)), max(0, self.tokens - tokens))


class Budget:
    """Reserves calls in a note that all instances share, before they are made."""

    def __init__(self, notes: NoteStore, clock: Clock, limits: HourlyLimits | None = None) -> None:
        self._notes = notes
        self._clock = clock
        self._limits = limits or HourlyLimits()
        self._told: datetime | None = None

    async def reserve(self, credential: CredentialId, jobs: Sequence[Job]) -> int:
        """Book the first of `jobs` that the hour has room for; return how many.

        What is booked stays so until it is given back.

        Raises:
            StoreError: if the note cannot be written; nothing is booked then.
        """
        if not jobs or self._limits == HourlyLimits():
            return len(jobs)
        hour = _hour(self._clock.now())
        for _ in range(RACES):
            note = await self._notes.read(BUDGETS)
            spent = _of_hour(note, hour)
            before = spent.get(credential, Spent())
            after = before.plus(jobs, self._limits)
            if after == before:
                self._tell(credential, hour)
                return 0
            text = _text(spent | {credential: after}, hour)
            if await self._notes.write(BUDGETS, Note.after(note, text)):
                return after.calls - before.calls
        return 0

    async def give_back(
        self, credential: CredentialId, jobs: Sequence[Job], *, reserved_at: datetime
    ) -> None:
        """Take back what was booked for jobs that are not called after all.

        Once the hour of `reserved_at` is over there is nothing to take back: the next one's
        budget has not paid for them.

        Raises:
            StoreError: if the note cannot be written; it stays booked then.
        """
        if not jobs or self._limits == HourlyLimits():
            return
        hour = _hour(reserved_at)
        for _ in range(RACES):
            note = await self._notes.read(BUDGETS)
            spent = _of_hour(note, hour)
            if note is None or credential not in spent:
                return
            spent[credential] = spent[credential].less(jobs)
            if await self._notes.write(BUDGETS, Note.after(note, _text(spent, hour))):
                return

    def _tell(self, credential: CredentialId, hour: datetime) -> None:
        if self._told != hour:
            self._told = hour
            log.warning(
                "budget.spent",
                credential=credential,
                hint="jobs wait for the next hour; raise lanes.max_calls_per_hour or"
                " lanes.max_tokens_per_hour if they must not",
            )


def _hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def _of_hour(note: Note | None, hour: datetime) -> dict[CredentialId, Spent]:
    """Return what the note says of this hour: nothing if it is an earlier one's.

    One that is damaged, or another version's, says nothing either.
    """
    if note is None:
        return {}
    try:
        data = json.loads(note.text)
        if data["hour"] != hour.isoformat():
            return {}
        return {
            CredentialId(one): Spent(int(calls), int(tokens))
            for one, (calls, tokens) in data["spent"].items()
        }
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return {}


def _text(spent: Mapping[CredentialId, Spent], hour: datetime) -> str:
    texts = {one: [each.calls, each.tokens] for one, each in spent.items()}
    return json.dumps({"hour": hour.isoformat(), "spent": texts})
