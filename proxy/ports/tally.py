"""Counting what happened, for the metrics."""

from typing import Protocol


class Tally(Protocol):
    """Counters by name. Counting never blocks and never fails."""

    def count(self, name: str, amount: float = 1, /, **labels: str) -> None:
        """Add `amount` to the counter `name`; both name and labels are a closed list."""
        ...
