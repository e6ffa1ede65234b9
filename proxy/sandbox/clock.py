"""The sandbox's own time, which tests may stop and advance.

Everything in the sandbox that waits, waits here. With `scale=0` time moves only by `advance`,
so that a day's window passes without a day's sleep.
"""

import asyncio
import math
import time
from collections.abc import Callable


class SandboxClock:
    """Unix seconds that run `scale` times as fast as real ones."""

    def __init__(self, *, scale: float, epoch: float | None = None) -> None:
        # The one place where the sandbox reads the machine's clocks: it *is* its Clock.
        self._base = time.time() if epoch is None else epoch  # noqa: TID251
        self._scale = scale
        self._started = time.monotonic()
        self._advanced = 0.0
        self._moved = asyncio.Event()

    def now(self) -> float:
        """Return the sandbox's time in Unix seconds."""
        elapsed = (time.monotonic() - self._started) * self._scale
        return self._base + elapsed + self._advanced

    def advance(self, seconds: float) -> None:
        """Jump forward and wake all that became due.

        Waiters run when the caller next yields to the loop; `Sandbox.settle` awaits them.
        """
        if seconds < 0:
            raise ValueError(f"time cannot go back by {-seconds} s")
        self._advanced += seconds
        self.nudge()

    def nudge(self) -> None:
        """Wake every waiter to look at its condition again."""
        self._moved.set()
        self._moved = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        """Wait until `seconds` of the sandbox's time have passed."""
        if seconds > 0:
            await self.wait_until(self.now() + seconds)

    async def wait_until(
        self, due: float, *, interrupted: Callable[[], bool] = lambda: False
    ) -> None:
        """Wait until `due`, or until `interrupted` holds after a `nudge`."""
        while self.now() < due and not interrupted():
            moved = self._moved
            # No timer for what only an advance or a nudge can end: not every event loop takes an
            # infinite one.
            is_timed = self._scale > 0 and math.isfinite(due)
            remaining = (due - self.now()) / self._scale if is_timed else None
            try:
                async with asyncio.timeout(remaining):
                    await moved.wait()
            except TimeoutError:
                continue
