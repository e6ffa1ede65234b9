"""Erase what has been kept long enough."""

from datetime import timedelta
from typing import Final

import structlog

from proxy.ports.ledger import LedgerStore
from proxy.services.clock_steps import ClockSteps
from proxy.services.ground import Ground

log = structlog.get_logger()

PER_PASS: Final = 500
"""Small, so that a pass holds the store for milliseconds; passes repeat while there is more."""

MAX_ROUNDS: Final = 20

SET_BY: Final = timedelta(hours=1)
"""How far the clock may run ahead of the time that passed between two passes before it counts as
set: clocks that are kept in step are corrected by less."""

WAIT_AFTER: Final = timedelta(hours=1)
"""How long nothing is erased after the clock was set forward. A wrong time is put right within
minutes, and what was erased by it does not come back. Not longer: a laptop that sleeps each
night has its clock set each morning."""


class Pruner:
    """Erases old jobs, batches, days of the ledger, and credentials that nothing needs."""

    def __init__(
        self,
        ground: Ground,
        *,
        ledger: LedgerStore,
        keep_results: timedelta,
        keep_ledger: timedelta,
    ) -> None:
        self._ground = ground
        self._ledger = ledger
        self._keep_results = keep_results
        self._keep_ledger = keep_ledger
        self._steps = ClockSteps(ground.clock)
        self._waits_until = 0.0

    async def run_once(self) -> int:
        """Erase up to some thousand records; return how many.

        Nothing for a while after the clock was set forward: it may be wrong.
        """
        if self._is_doubtful():
            return 0
        async with self._ground.leases.held("pass:prune") as lease:
            if lease is None:
                return 0
            now = self._ground.now()
            before = now - self._keep_results
            pruned = await self._ledger.prune(before=(now - self._keep_ledger).date())
            for _ in range(MAX_ROUNDS):
                jobs = await self._ground.jobs.prune(finalized_before=before, limit=PER_PASS)
                batches = await self._ground.batches.prune(settled_before=before, limit=PER_PASS)
                pruned += jobs + batches
                if max(jobs, batches) < PER_PASS or not await lease.renew():
                    break
            return pruned + await self._ground.credentials.forget_unused(limit=PER_PASS)

    def _is_doubtful(self) -> bool:
        step, monotonic = self._steps.since_last(), self._ground.clock.monotonic()
        if step > SET_BY:
            self._waits_until = monotonic + WAIT_AFTER.total_seconds()
            log.warning(
                "clock.doubted",
                set_forward_s=round(step.total_seconds()),
                hint="what is kept for long enough by the new time is erased in an hour",
            )
        return monotonic < self._waits_until
