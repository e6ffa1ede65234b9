"""The provider's bill: who bought which body how often, by which lane, for how much.

One entry per *execution*. A batch line that never ran, a refused call and a call that was reset
before it was processed are not in it; an answer that was computed and then lost on its way is.
Credentials are kept as fingerprints only.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

LANES: Final = ("interactive", "flex", "batch")
_HALF_PRICED: Final = frozenset({"flex", "batch"})


def key_id(key: str) -> str:
    """Return the fingerprint under which a credential appears in ledgers and listings."""
    return hashlib.sha256(key.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Entry:
    """One execution of one request body."""

    at: float
    key_id: str
    endpoint: str
    model: str
    lane: str
    body_hash: str
    input_tokens: int
    output_tokens: int
    list_micro_usd: int
    paid_micro_usd: int
    custom_id: str | None = None
    batch_id: str | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """A sum over entries; money in micro-USD."""

    executions: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    list_micro_usd: int = 0
    paid_micro_usd: int = 0

    def plus(self, entry: Entry) -> "Totals":
        """Return the sum with one more entry."""
        return Totals(
            self.executions + 1,
            self.input_tokens + entry.input_tokens,
            self.output_tokens + entry.output_tokens,
            self.list_micro_usd + entry.list_micro_usd,
            self.paid_micro_usd + entry.paid_micro_usd,
        )


class Ledger:
    """All executions since the start, and counts of what was asked."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._bought: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        """HTTP requests received, by `METHOD /route/{id}`; refused and faulted ones too."""
        self.abandoned = 0
        """Interactive calls whose caller left before the answer; not billed."""

    def record(self, entry: Entry) -> None:
        """Bill one execution."""
        self._entries.append(entry)
        self._bought[entry.body_hash] += 1

    def entries(
        self,
        *,
        lane: str | None = None,
        key: str | None = None,
        batch_id: str | None = None,
        custom_id: str | None = None,
    ) -> Iterator[Entry]:
        """Yield the entries that match all given conditions, oldest first."""
        wanted_key = None if key is None else key_id(key)
        for entry in self._entries:
            if (
                lane in (None, entry.lane)
                and wanted_key in (None, entry.key_id)
                and batch_id in (None, entry.batch_id)
                and custom_id in (None, entry.custom_id)
            ):
                yield entry

    def totals(self, *, lane: str | None = None, key: str | None = None) -> Totals:
        """Return the sum over all entries of that lane and key."""
        total = Totals()
        for entry in self.entries(lane=lane, key=key):
            total = total.plus(entry)
        return total

    def by_lane(self) -> dict[str, Totals]:
        """Return one sum per lane, lanes without entries included."""
        return {lane: self.totals(lane=lane) for lane in LANES}

    def bought(self, body_hash: str) -> int:
        """Return how often a body (see `answers.body_hash`) was executed."""
        return self._bought[body_hash]

    def purchases(self) -> dict[str, int]:
        """Return how often each body was executed, by its hash."""
        return dict(self._bought)

    def clear(self) -> None:
        """Forget everything, so that a run can be counted from zero."""
        self._entries.clear()
        self._bought.clear()
        self.requests.clear()
        self.abandoned = 0


def paid(list_micro_usd: int, lane: str) -> int:
    """Return what a lane charges for work of that list price: half, or all."""
    return list_micro_usd // 2 if lane in _HALF_PRICED else list_micro_usd
