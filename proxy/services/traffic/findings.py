"""What an audit says: segments, whether anybody waits for them, and rules with their effect."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from proxy.core.audit import Arrival, Opinion
from proxy.core.prices import Cost
from proxy.services.traffic.diversions import Diversion, rules_text

MONTH: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True, order=True)
class SegmentKey:
    """What the calls of one segment have in common."""

    upstream: str
    path: str
    application: str
    """A pattern of its `User-Agent`, whatever its version; empty if it sends none."""

    credential: str
    model: str


@dataclass(slots=True)
class Money:
    """What calls cost, and what they would cost in batches; nano-dollars."""

    calls: int = 0
    priced: int = 0
    """Those of them whose tokens and both prices are known. No amount includes the others."""

    tokens: int = 0
    list_nano: int = 0
    batch_nano: int = 0

    @property
    def saved_nano(self) -> int:
        """What batches would have saved."""
        return self.list_nano - self.batch_nano

    def add(self, call: "Call") -> None:
        """Add one call."""
        self.calls += 1
        self.tokens += call.tokens
        if call.cost is not None:
            self.priced += 1
            self.list_nano += call.cost.list_nano
            self.batch_nano += call.cost.paid_nano


def total(parts: Iterable[Money]) -> Money:
    """Return the sum of all parts."""
    sums = Money()
    for one in parts:
        sums.calls += one.calls
        sums.priced += one.priced
        sums.tokens += one.tokens
        sums.list_nano += one.list_nano
        sums.batch_nano += one.batch_nano
    return sums


@dataclass(frozen=True, slots=True)
class Call:
    """A recorded call, as far as the audit needs it."""

    segment: SegmentKey
    arrival: Arrival
    can_defer: bool
    undecided: bool
    shadow: str | None
    """The shadow rule that would defer it, if one would."""

    tokens: int
    cost: Cost | None
    """`paid_nano` is the price in a batch; nothing if either price is not known."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Calls that one application makes in the same way, and whether anybody waits for them."""

    key: SegmentKey
    nights_only: bool
    opinion: Opinion
    money: Money


@dataclass(frozen=True, slots=True)
class Proposal:
    """A rule to paste, and what it would have done in the time that was recorded."""

    diversion: Diversion
    segments: tuple[Segment, ...]
    money: Money
    also_matches: int
    """Calls that it would divert as well, without meaning to: then it is not to be pasted."""


@dataclass(slots=True)
class Shadow:
    """What a rule in shadow mode would have diverted, as it was counted."""

    money: Money = field(default_factory=Money)
    proposed: int = 0
    """Calls of it that a proposed rule takes as well: for the others somebody may wait."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What a record tells."""

    calls: int
    unreadable: int
    begun: datetime | None
    ended: datetime | None
    segments: tuple[Segment, ...]
    """Those that somebody seems to wait for, and those that nobody does; dearest first."""

    proposals: tuple[Proposal, ...]
    shadows: Mapping[str, "Shadow"] = field(default_factory=dict)
    """By rule, what rules in shadow mode would have diverted."""

    @property
    def span(self) -> timedelta:
        """How long was recorded."""
        if self.begun is None or self.ended is None:
            return timedelta()
        return self.ended - self.begun

    @property
    def rules(self) -> str:
        """The rules to paste, as they stand in a file; empty if there are none."""
        return rules_text([one.diversion for one in self.proposals if not one.also_matches])
