"""Run every background pass again and again, until the service stops.

Passes are driven by time; a wake-up only brings the next one forward. So a lost
wake-up costs an interval, and nothing that matters may depend on one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from math import inf
from typing import Final

import structlog

from proxy.core.errors import ProxyError
from proxy.ports.clock import Clock
from proxy.ports.passes import AT_ONCE
from proxy.telemetry import Metrics

log = structlog.get_logger()

REST: Final = timedelta(milliseconds=100)
"""Least pause between two passes: however often it is woken, a pass then sees what
gathered meanwhile instead of running once for each arrival."""


TOLD_AGAIN: Final = timedelta(minutes=1)
"""How often a failure that lasts is logged. A store that is away fails every pass, a dozen times
a second at each instance, and what else the log says would be hidden between them."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One background activity."""

    name: str
    """In log events, in metrics, and for `Scheduler.wake`, e.g. `flush`."""

    interval: timedelta
    """Pause between the end of one pass and the start of the next, or between two starts
    of one that overlaps."""

    run_once: Callable[[], Awaitable[int]]
    """One bounded pass; returns how many records it moved."""

    rest: timedelta = REST

    overlaps: bool = False
    """Whether one begins though the one before is not over. It must know what is under way."""


class Scheduler:
    """Runs passes beside each other, each that does not overlap once at a time.

    A `ProxyError` is counted, and logged once and each minute while it lasts, and the
    next pass goes on. Anything else is a bug: it cancels the others and comes out of
    `run`, since a pass that hides a bug loses jobs.
    """

    def __init__(
        self,
        passes: Iterable[Pass],
        *,
        clock: Clock,
        metrics: Metrics,
        jitter: Callable[[], float] = lambda: 1.0,
    ) -> None:
        """`jitter` draws a factor on each pause, around 1.0, so that a fleet spreads out."""
        self._passes = tuple(passes)
        self._clock = clock
        self._metrics = metrics
        self._jitter = jitter
        self._failures: dict[str, _Failure] = {}
        """The passes that failed the last time."""

        self._stop = asyncio.Event()
        self._nudges: Mapping[str, asyncio.Event] = {
            one.name: asyncio.Event() for one in self._passes
        }
        self._wanted: dict[str, float] = {}
        """When passes were asked to run, by the time of the event loop."""

        assert len(self._nudges) == len(self._passes), "two passes of the same name"

    def wake(self, name: str, *, within: timedelta = AT_ONCE) -> None:
        """Let the pass run when `within` is over, instead of at the end of its pause."""
        at = _now() + within.total_seconds()
        if at < self._wanted.get(name, inf):
            self._wanted[name] = at
            self._nudges[name].set()

    def stop(self) -> None:
        """Start no more passes. Those in progress run to their end."""
        self._stop.set()
        for nudge in self._nudges.values():
            nudge.set()

    async def run(self) -> None:
        """Run all passes until `stop` was called and the last one is over."""
        async with asyncio.TaskGroup() as tasks:
            for one in self._passes:
                tasks.create_task(self._repeat(one, tasks), name=f"pass:{one.name}")

    async def _repeat(self, one: Pass, tasks: asyncio.TaskGroup) -> None:
        while not self._stop.is_set():
            # Cleared before the pass: what happens during it may have come too
            # late for it, and must lead to another one.
            self._wanted.pop(one.name, None)
            if one.overlaps:
                tasks.create_task(self._run_once(one), name=f"pass:{one.name}")
            else:
                await self._run_once(one)
            await _wait(self._stop, one.rest)
            await self._pause(one.name, (one.interval - one.rest) * self._jitter())

    async def _pause(self, name: str, pause: timedelta) -> None:
        """Return after `pause`, when the pass is wanted, or at the end."""
        nudge, end = self._nudges[name], _now() + pause.total_seconds()
        while not self._stop.is_set():
            left_s = min(end, self._wanted.get(name, inf)) - _now()
            if left_s <= 0:
                return
            nudge.clear()
            await _wait(nudge, timedelta(seconds=left_s))

    async def _run_once(self, one: Pass) -> None:
        begun = self._clock.monotonic()
        try:
            moved = await one.run_once()
        except ProxyError as exc:
            self._metrics.count("pass_failed", name=one.name, code=exc.code)
            self._tell(one.name, exc)
        else:
            log.debug("pass.done", name=one.name, moved=moved)
            self._tell_of_end(one.name)
        finally:
            self._metrics.observe("pass_seconds", self._clock.monotonic() - begun, name=one.name)

    def _tell(self, name: str, exc: ProxyError) -> None:
        now, error = self._clock.monotonic(), str(exc)
        known = self._failures.get(name)
        if known is None:
            known = self._failures[name] = _Failure(since=now)
        known.times += 1
        if (known.error, known.code) == (error, exc.code) and now < known.quiet_until:
            return
        known.error, known.code = error, exc.code
        known.quiet_until = now + TOLD_AGAIN.total_seconds()
        log.warning(
            "pass.failed",
            name=name,
            code=exc.code,
            error=error,
            hint=exc.hint,
            times=known.times,
        )

    def _tell_of_end(self, name: str) -> None:
        failure = self._failures.pop(name, None)
        if failure is not None:
            lasted_s = round(self._clock.monotonic() - failure.since, 1)
            log.info("pass.recovered", name=name, times=failure.times, lasted_s=lasted_s)


@dataclass(slots=True)
class _Failure:
    """Since when a pass fails, how often it has, and what was told of that."""

    since: float
    times: int = 0
    error: str = ""
    code: str = ""
    quiet_until: float = 0.0


def _now() -> float:
    # The clock of the event loop, by which pauses are measured.
    return asyncio.get_running_loop().time()


async def _wait(event: asyncio.Event, pause: timedelta) -> None:
    """Return once `event` is set, or after `pause`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, pause.total_seconds())):
            await event.wait()
