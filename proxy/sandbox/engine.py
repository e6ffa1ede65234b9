"""What all dialects of the sandbox share: time, money, keys, faults and background work."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.sandbox.clock import SandboxClock
from proxy.sandbox.faults import FaultBook
from proxy.sandbox.keys import Keys
from proxy.sandbox.ledger import Entry, Ledger, paid
from proxy.sandbox.settings import ModelSpec, SandboxSettings


@dataclass(frozen=True, slots=True)
class Execution:
    """One computed answer, not yet billed."""

    body: dict[str, Any]
    model: ModelSpec
    body_hash: str
    input_tokens: int
    output_tokens: int

    @property
    def list_micro_usd(self) -> int:
        """The price at full rate."""
        return (
            self.input_tokens * self.model.input_price
            + self.output_tokens * self.model.output_price
        )


@dataclass(slots=True)
class FlexCapacity:
    """How many more flex calls are refused for lack of capacity; None: all of them."""

    refusals: int | None = 0

    def take(self) -> bool:
        """Ask for capacity once; return whether it was granted."""
        if self.refusals is None:
            return False
        if self.refusals > 0:
            self.refusals -= 1
            return False
        return True


class Workers:
    """Background work of the sandbox: each piece runs as a task of one group."""

    def __init__(self, clock: SandboxClock, group: asyncio.TaskGroup) -> None:
        self._clock = clock
        self._group = group
        self._tasks: set[asyncio.Task[None]] = set()
        self._resting: dict[asyncio.Task[Any], tuple[float, Callable[[], bool]]] = {}
        self._changed = asyncio.Event()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a piece of work; it ends by itself or with the sandbox."""
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def rest(self, due: float, *, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Wait, inside a piece of work, until `due` or until `interrupted` after a nudge."""
        task = asyncio.current_task()
        assert task is not None
        self._resting[task] = (due, interrupted)
        self._signal()
        try:
            await self._clock.wait_until(due, interrupted=interrupted)
        finally:
            del self._resting[task]

    async def settle(self) -> None:
        """Wait until no work is left that could be done at the present time.

        With a stopped clock the sandbox then stays as it is until someone acts.
        """
        while not self._calm():
            await self._changed.wait()

    def cancel(self) -> None:
        """Stop all work."""
        for task in self._tasks:
            task.cancel()

    def _calm(self) -> bool:
        now = self._clock.now()
        return all(
            task in self._resting and self._resting[task][0] > now and not self._resting[task][1]()
            for task in self._tasks
        )

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._signal()

    def _signal(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


@dataclass(frozen=True, slots=True)
class Engine:
    """The shared state of one running sandbox."""

    settings: SandboxSettings
    clock: SandboxClock
    ledger: Ledger
    keys: Keys
    faults: FaultBook
    flex: FlexCapacity
    workers: Workers
    directory: Path

    async def advance(self, seconds: float) -> None:
        """Move the clock, having done all that was due before and doing all that is due then."""
        await self.workers.settle()
        self.clock.advance(seconds)
        await self.workers.settle()

    def bill(
        self,
        execution: Execution,
        *,
        key_id: str,
        endpoint: str,
        lane: str,
        custom_id: str | None = None,
        batch_id: str | None = None,
    ) -> None:
        """Enter one execution in the ledger, at the price of its lane."""
        self.ledger.record(
            Entry(
                at=self.clock.now(),
                key_id=key_id,
                endpoint=endpoint,
                model=execution.model.id,
                lane=lane,
                body_hash=execution.body_hash,
                input_tokens=execution.input_tokens,
                output_tokens=execution.output_tokens,
                list_micro_usd=execution.list_micro_usd,
                paid_micro_usd=paid(execution.list_micro_usd, lane),
                custom_id=custom_id,
                batch_id=batch_id,
            )
        )


def new_id(prefix: str) -> str:
    """Return a fresh, unguessable ID such as `batch_5f…`."""
    return prefix + secrets.token_hex(12)
