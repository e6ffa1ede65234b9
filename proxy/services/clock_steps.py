"""Notice that the clock on the wall was set, by the one that nobody sets."""

from datetime import timedelta

from proxy.ports.clock import Clock


class ClockSteps:
    """Compares both clocks whenever it is asked."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._apart_s: float | None = None

    def since_last(self) -> timedelta:
        """Return by how much it was set since this was last asked, back if that is negative.

        A machine that slept counts as one whose clock was set forward. At first nothing is known.
        """
        before = self._apart_s
        self._apart_s = self._clock.now().timestamp() - self._clock.monotonic()
        return timedelta(seconds=0 if before is None else self._apart_s - before)
