"""Keep the prompt tokens enqueued at a provider within what it lets in.

Providers bound the tokens of all open batches of a model and tell no one the
figure: it shows when a batch fails with `token_limit_exceeded`, at no cost.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from proxy.core.ids import CredentialId
from proxy.core.lanes import ProviderQueue
from proxy.ports.notes import Note, NoteStore
from proxy.services.pauses import Backoff

NAME: Final = "enqueued-tokens"

MAX_LEARNED: Final = 2_000
"""Queues in the note, some 200 KB; beyond it the oldest lesson goes."""

RACES: Final = 20
"""How often a lesson is written again because another instance learned at the same time."""

_BACKOFF: Final = Backoff(
    first=timedelta(minutes=1), longest=timedelta(minutes=30), in_a_row=timedelta(hours=1)
)

_GROWTH_PER_HOUR: Final = 1.25
"""How fast a learned bound rises again, since tiers grow and other users of the account come and
go. Trying a little more costs a pause; trying everything would cost a refused batch."""

LEAST_LIMIT: Final = 20_000
"""Below the limit of any account that we know of: OpenAI's lowest tier has 90,000. A bound that is
lower comes of refusals that were no matter of tokens (googleapis/python-genai #1901)."""

_FORGET_AFTER: Final = timedelta(days=2)
"""By then a bound has grown by four orders of magnitude, and bounds nothing."""


@dataclass(frozen=True, slots=True)
class _Learned:
    max_tokens: int
    at: datetime
    pause: timedelta

    @property
    def rests_until(self) -> datetime:
        return self.at + self.pause

    def grown(self, now: datetime) -> int:
        """Return the bound after it has grown with time."""
        return int(self.max_tokens * self._growth(now))

    def raised(self, bound: int, now: datetime) -> "_Learned":
        """Return the same with another bound by now; what is said of rests stays."""
        return replace(self, max_tokens=math.ceil(bound / self._growth(now)))

    def _growth(self, now: datetime) -> float:
        hours = min(max(now - self.at, timedelta(0)), _FORGET_AFTER) / timedelta(hours=1)
        return math.pow(_GROWTH_PER_HOUR, hours)


class TokenGovernor:
    """What all instances have learned about the token limits of provider queues.

    Kept in a note of the store: whoever settles a refused batch learns, and whoever
    fills the next one must know.
    """

    def __init__(self, notes: NoteStore, configured: int | None = None) -> None:
        self._notes = notes
        self._configured = configured
        self._learned: Mapping[ProviderQueue, _Learned] = {}

    async def refresh(self) -> None:
        """Read what is known by now; `max_tokens` and `resting_until` go by the last time.

        Raises:
            StoreError: if the store is away; what was known stays.
        """
        self._learned = _parse(await self._notes.read(NAME))

    async def exceeded(
        self, queue: ProviderQueue, tokens: int, *, others: int = 0, now: datetime
    ) -> datetime:
        """Note that a batch of `tokens` was too much; return when to try the next.

        `others` were enqueued beside it, so at least as many are let in. The bound is set to half
        of them all, or to `others` if that is more, and the pause doubles with each refusal in a
        row. Batches that were on their way together are refused together, and pause once.

        Raises:
            StoreError: if it cannot be noted.
        """
        for _ in range(RACES):
            note = await self._notes.read(NAME)
            known = _parse(note)
            lesson = _lesson(known.get(queue), tokens, others, now)
            self._learned = known | {queue: lesson}
            text = _text(self._learned, now)
            if await self._notes.write(NAME, Note.after(note, text)):
                break
        return lesson.rests_until

    async def let_in(self, queue: ProviderQueue, tokens: int, *, now: datetime) -> None:
        """Note that a batch of `tokens` was let in: below `LEAST_LIMIT`, twice as many may be.

        Growing with time alone, a bound that false refusals had left at next to nothing made
        a batch of each job, one after the other, for hours.

        Raises:
            StoreError: if it cannot be noted.
        """
        bound = min(2 * tokens, LEAST_LIMIT)
        known = self._learned.get(queue)
        for _ in range(RACES):
            if known is None or known.grown(now) >= bound:
                return
            note = await self._notes.read(NAME)
            self._learned = _parse(note)
            known = self._learned.get(queue)
            if note is None or known is None:
                return
            raised = self._learned | {queue: known.raised(bound, now)}
            if await self._notes.write(NAME, Note.after(note, _text(raised, now))):
                self._learned = raised
                return

    def max_tokens(self, queue: ProviderQueue, *, now: datetime) -> int | None:
        """Return how many tokens may be enqueued; nothing if no bound is known."""
        known = self._learned.get(queue)
        if known is None or now - known.at > _FORGET_AFTER:
            return self._configured
        bound = known.grown(now)
        return bound if self._configured is None else min(self._configured, bound)

    def resting_until(self, queue: ProviderQueue) -> datetime | None:
        """Return until when no batch is worth trying there."""
        known = self._learned.get(queue)
        return known.rests_until if known else None


def _lesson(known: _Learned | None, tokens: int, others: int, now: datetime) -> _Learned:
    total = others + tokens if known is None else min(others + tokens, known.grown(now))
    bound = max(total // 2, others if others < total else 0, 1)
    if known is None:
        return _Learned(bound, now, _BACKOFF.first)
    if now < known.rests_until:
        return _Learned(bound, known.at, known.pause)
    pause = _BACKOFF.after(known.pause, ended_at=known.rests_until, now=now)
    return _Learned(bound, now, pause)


def _parse(note: Note | None) -> dict[ProviderQueue, _Learned]:
    if note is None:
        return {}
    try:
        return {
            (CredentialId(credential), model): _Learned(
                int(most), datetime.fromisoformat(at), timedelta(seconds=pause_s)
            )
            for credential, model, most, at, pause_s in json.loads(note.text)
        }
    except (OverflowError, TypeError, ValueError):
        # Damaged, or another version's: a refusal teaches it anew.
        return {}


def _text(learned: Mapping[ProviderQueue, _Learned], now: datetime) -> str:
    """Return what is still worth knowing, newest first."""
    fresh = [item for item in learned.items() if now - item[1].at <= _FORGET_AFTER]
    fresh.sort(key=lambda item: item[1].at, reverse=True)
    return json.dumps(
        [
            [credential, model, one.max_tokens, one.at.isoformat(), one.pause.total_seconds()]
            for (credential, model), one in fresh[:MAX_LEARNED]
        ]
    )
