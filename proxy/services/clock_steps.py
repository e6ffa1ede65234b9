"""Notice that the clock on the wall was set, by the one that nobody sets."""

from datetime import timedelta

from proxy.ports.clock import Clock


def wall_ahead_s(clock: Clock) -> float:
    """Return by how many seconds the clock on the wall is ahead of the one that nobody sets.

    Where that one begins means nothing, so only the difference of two such numbers says something:
    by how much the clock was set between them, or how long the machine slept.
    """
    return clock.now().timestamp() - clock.monotonic()


class ClockSteps:
    """Compares both clocks whenever it is asked."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead_s: float | None = None

    def since_last(self) -> timedelta:
        """Return by how much the clock was set since this was last asked; negative if set back.

        A machine that slept counts as one whose clock was set forward. At first nothing is known.
        """
        before = self._ahead_s
        self._ahead_s = wall_ahead_s(self._clock)
        return timedelta(seconds=0 if before is None else self._ahead_s - before)
