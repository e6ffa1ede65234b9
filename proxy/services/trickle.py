"""When calls that are in nobody's way may be made."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from policies.windows import Window

_STEP: Final = timedelta(minutes=5)
_LOOK_AHEAD: Final = timedelta(days=8)
"""Longer than a week, since windows may name days."""


@dataclass(frozen=True, slots=True)
class TrickleHours:
    """The hours of the trickle lane, and its pace for one credential."""

    calls_per_s: float = 1.0
    window: Window | None = None
    """Nothing: all day."""

    def is_open(self, now: datetime) -> bool:
        """Return whether calls may begin now."""
        return self.window is None or self.window.contains(now)

    def begins(self, now: datetime) -> datetime | None:
        """Return when the next hours begin, to five minutes; nothing if they are now."""
        if self.is_open(now) or self.window is None:
            return None
        at = now + _STEP
        while not self.window.contains(at) and at < now + _LOOK_AHEAD:
            at += _STEP
        return at
