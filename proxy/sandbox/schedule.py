"""When the work of a batch is due, whatever the vendor's dialect.

A batch keeps to a schedule: its lines finish evenly over the turnaround. Its times are those of
the schedule, so a clock that jumps past all of them leaves the same batch behind as one that ran
through. A line runs when the schedule says that it is due.
"""

import math
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from proxy.sandbox.engine import Engine
from proxy.sandbox.faults import BatchFault
from proxy.sandbox.lines import Pause

_WAKES_MAX: Final = 20
"""How often a batch reports progress between its first and its last line."""

_CLOCK_GRAIN_S: Final = 1e-6
"""Coarser than the rounding of Unix seconds in a float, so that a line due now is due now."""


class Scheduled(Protocol):
    """What a schedule needs to know of a batch."""

    @property
    def id(self) -> str: ...

    @property
    def started_at(self) -> float:
        """When its lines began to run."""
        ...

    @property
    def expires_at(self) -> float: ...

    @property
    def cancel_at(self) -> float | None: ...

    @property
    def total(self) -> int: ...

    @property
    def fault_ids(self) -> tuple[str, ...]: ...


class StoppedError(Exception):
    """The batch was cancelled, or its window ended, before its work was done."""

    def __init__(self, status: str, at: float) -> None:
        super().__init__(status)
        self.status = status
        """`cancelled` or `expired`."""
        self.at = at


class Schedule:
    """Waits on behalf of one batch, and tells what is due."""

    def __init__(self, engine: Engine, batch: Scheduled) -> None:
        self._engine = engine
        self._batch = batch
        self._expiry = batch.expires_at
        self._held_to = 0.0
        """When a fault that held the batch was last lifted; nothing ends before that."""

    async def run_lines(self, run_next: Callable[[], None]) -> None:
        """Call `run_next` once for every line of the batch in progress, each when it is due.

        Raises:
            StoppedError: if a cancel or the end of the window came first.
        """
        batch, clock = self._batch, self._engine.clock
        pause = Pause()
        step = max(1, batch.total // _WAKES_MAX)
        done = 0
        while done < batch.total:
            stop = self._stop_at("in_progress")
            allowed = min(
                (f.stop_after for f in self.faults() if f.stop_after is not None),
                default=batch.total,
            )
            if done < min(allowed, self._lines_due(min(clock.now(), stop))):
                run_next()
                done += 1
                await pause.breathe()
                continue
            self._raise_if_stopped("in_progress")
            ahead = min(batch.total, done + step)
            await self._rest(min(stop, self.line_due(ahead)) if done < allowed else stop)

    async def reach(self, due: float, stage: str) -> float:
        """Wait for `due`, and for the end of any fault that holds the batch in `stage`.

        Returns the time reached: `due`, or when the batch was released if that was later.

        Raises:
            StoppedError: if a cancel or the end of the window came first.
        """
        while True:
            is_held, reached = self._is_held(stage), max(due, self._held_to)
            if not is_held and reached <= min(self._engine.clock.now(), self._stop_at(stage)):
                return reached
            self._raise_if_stopped(stage)
            await self._rest(self._stop_at(stage) if is_held else min(due, self._stop_at(stage)))
            if is_held:
                self._held_to = self._engine.clock.now()

    async def wound_up(self, stopped: StoppedError) -> float:
        """Wait until a stopped batch is over; a cancelled one takes a while. Return when."""
        if stopped.status != "cancelled":
            return stopped.at
        due = stopped.at + self._engine.settings.cancel_s
        while self._engine.clock.now() < due or self._is_held("cancelling"):
            if self._is_held("cancelling"):
                await self._rest(math.inf)
                self._held_to = self._engine.clock.now()
            else:
                await self._rest(due)
        return max(due, self._held_to)

    def line_due(self, lines: int) -> float:
        """Return when so many lines are done."""
        share = lines / self._batch.total
        return self._batch.started_at + self._engine.settings.turnaround_s * share

    def faults(self) -> Iterator[BatchFault]:
        """Return what is in force for the batch."""
        return self._engine.faults.of_batch(self._batch.id, self._batch.fault_ids)

    def _lines_due(self, at: float) -> int:
        turnaround = self._engine.settings.turnaround_s
        if turnaround <= 0:
            return self._batch.total
        elapsed = at - self._batch.started_at + _CLOCK_GRAIN_S
        return min(self._batch.total, math.floor(self._batch.total * elapsed / turnaround))

    def _stop_at(self, stage: str) -> float:
        """When a cancel or the end of the window stops the work; a held batch never expires."""
        cancelled = math.inf if self._batch.cancel_at is None else self._batch.cancel_at
        if any(fault.expire for fault in self.faults()):
            self._expiry = min(self._expiry, self._engine.clock.now())
        return cancelled if self._is_held(stage) else min(cancelled, self._expiry)

    def _raise_if_stopped(self, stage: str) -> None:
        at = self._stop_at(stage)
        if at <= self._engine.clock.now():
            if at == self._batch.cancel_at:
                raise StoppedError("cancelled", at)
            raise StoppedError("expired", max(at, self._held_to))

    def _is_held(self, stage: str) -> bool:
        return any(fault.stick_in == stage for fault in self.faults())

    async def _rest(self, until: float) -> None:
        seen = (self._engine.faults.version, self._batch.cancel_at)
        await self._engine.workers.rest(
            until,
            interrupted=lambda: seen != (self._engine.faults.version, self._batch.cancel_at),
        )
