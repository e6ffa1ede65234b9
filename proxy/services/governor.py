"""Keep the prompt tokens enqueued at a provider within what it lets in.

Providers bound the tokens of all open batches of a model and tell no one the
figure: it shows when a batch fails with `token_limit_exceeded`, at no cost.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from proxy.core.ids import CredentialId

_FIRST_PAUSE: Final = timedelta(minutes=1)
_LONGEST_PAUSE: Final = timedelta(minutes=30)

_RELEARN_AFTER: Final = timedelta(hours=6)
"""Tiers grow, and other users of the account come and go."""


@dataclass(frozen=True, slots=True)
class _Learned:
    max_tokens: int
    at: datetime
    pause: timedelta


class TokenGovernor:
    """What was learned about enqueued-token limits, per credential and model.

    Kept in memory: what is forgotten in a restart is learned again from one
    refusal, which costs nothing but time.
    """

    def __init__(self, configured: int | None = None) -> None:
        self._configured = configured
        self._learned: dict[tuple[CredentialId, str], _Learned] = {}

    def exceeded(
        self, credential: CredentialId, model: str, tokens: int, *, now: datetime
    ) -> datetime:
        """Note that a batch of `tokens` was too much; return when to try the next.

        The next batches are half as large, and the pause doubles with each
        refusal in a row.
        """
        known = self._learned.get((credential, model))
        pause = min(known.pause * 2, _LONGEST_PAUSE) if known else _FIRST_PAUSE
        smallest = min(tokens, known.max_tokens) if known else tokens
        self._learned[credential, model] = _Learned(max(smallest // 2, 1), now, pause)
        return now + pause

    def max_tokens(self, credential: CredentialId, model: str, *, now: datetime) -> int | None:
        """Return how many tokens may be enqueued; nothing if no bound is known."""
        known = self._learned.get((credential, model))
        if known is None or now - known.at > _RELEARN_AFTER:
            return self._configured
        if self._configured is None:
            return known.max_tokens
        return min(self._configured, known.max_tokens)

    def resting_until(self, credential: CredentialId, model: str) -> datetime | None:
        """Return until when no batch of this model is worth trying."""
        known = self._learned.get((credential, model))
        return known.at + known.pause if known else None
