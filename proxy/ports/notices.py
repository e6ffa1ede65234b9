"""Durable notices: the ends of jobs that webhooks are still to be told of.

A notice is made by `JobStore.replace_many`, at the very moment that it writes the end of a job
whose call named a webhook: no crash can come between the two. It is dropped when it was delivered,
and at the latest with its job. So there are no more than jobs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from proxy.core.notices import Notice


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a webhook does."""

    pending: int = 0
    """Notices that will be sent, for the first time or again."""

    given_up: int = 0
    """Notices that will not be sent again, and are kept until their jobs go."""

    delivered: int = 0
    """Notices that arrived, since the store was made."""

    failed: int = 0
    """Attempts that did not, since the store was made."""

    delivered_at: datetime | None = None
    """When one arrived last."""

    failed_at: datetime | None = None
    """When an attempt failed last."""

    last_failure: str | None = None
    """What that attempt came to."""


class NoticeStore(Protocol):
    """Durable notices."""

    async def take(
        self, webhook: str, *, now: datetime, until: datetime, limit: int
    ) -> Sequence[Notice]:
        """Take up to `limit` notices that are due by `now`, longest due first.

        Nobody else is given them before `until`. By then they are settled by one of
        the methods below, or their taker is dead and they are due again.
        """
        ...

    async def delivered(self, notice: Notice, *, at: datetime) -> None:
        """Forget a notice that arrived."""
        ...

    async def failed(
        self, notice: Notice, *, at: datetime, failure: str, again_at: datetime | None
    ) -> None:
        """Count a failed attempt; the notice is due `again_at`, or given up.

        Changes nothing of a notice that is gone, or that another attempt has changed.
        """
        ...

    async def forget(self, notice: Notice) -> None:
        """Forget a notice without counting it: its job is gone."""
        ...

    async def revive(self, webhook: str, *, at: datetime) -> int:
        """Let what was given up be due `at`, as if it was never sent; return how many."""
        ...

    async def standing(self, webhooks: Sequence[str]) -> Mapping[str, Standing]:
        """Return how each of `webhooks` does."""
        ...
