"""How much may be called at once, and how fast.

No stampede: a whole batch may come back, and its provider bounds what it answers.
"""

from dataclasses import dataclass
from datetime import timedelta

from proxy.core.ids import CredentialId
from proxy.core.lanes import Lane
from proxy.services.pauses import keep_in_mind


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneCaps:
    """How much of one credential may be called in one lane."""

    concurrent: int = 16
    calls_per_s: float = 10.0
    timeout: timedelta = timedelta(minutes=10)
    """For one call: as long as the SDKs themselves wait by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EscalationLimits:
    """How much may be called at once, in all and in each lane."""

    total: int = 64
    interactive: LaneCaps = LaneCaps()
    flex: LaneCaps = LaneCaps()
    trickle: LaneCaps = LaneCaps()

    def of(self, lane: Lane) -> LaneCaps:
        """Return the caps of a lane that calls."""
        match lane:
            case Lane.FLEX:
                return self.flex
            case Lane.TRICKLE:
                return self.trickle
            case _:
                return self.interactive


LaneUse = tuple[Lane, CredentialId]
"""A lane as one credential uses it: what has caps of its own."""


class Rate:
    """How many calls may begin in each `LaneUse`: so many a second, a second's worth at once."""

    def __init__(self) -> None:
        self._seen: dict[LaneUse, tuple[float, float]] = {}

    def left(self, use: LaneUse, per_second: float, now: float) -> int:
        """Return how many may begin; `now` is monotonic, in seconds."""
        most = max(1.0, per_second)
        left, since = self._seen.get(use, (most, now))
        left = min(most, left + (now - since) * per_second)
        keep_in_mind(self._seen, use, (left, now))
        return int(left)

    def spend(self, use: LaneUse) -> None:
        """Note that one begins."""
        left, since = self._seen[use]
        self._seen[use] = left - 1, since
