"""Erase what has been kept long enough."""

from datetime import timedelta
from typing import Final

from proxy.ports.ledger import LedgerStore
from proxy.services.ground import Ground

PER_PASS: Final = 500
"""Small, so that a pass holds the store for milliseconds; passes repeat while there is more."""

MAX_ROUNDS: Final = 20


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
        self._on = ground
        self._ledger = ledger
        self._keep_results = keep_results
        self._keep_ledger = keep_ledger

    async def run_once(self) -> int:
        """Erase up to some thousand records; return how many."""
        async with self._on.leases.held("pass:prune") as lease:
            if lease is None:
                return 0
            now = self._on.clock.now()
            before = now - self._keep_results
            pruned = await self._ledger.prune(before=(now - self._keep_ledger).date())
            for _ in range(MAX_ROUNDS):
                jobs = await self._on.jobs.prune(finalized_before=before, limit=PER_PASS)
                batches = await self._on.batches.prune(settled_before=before, limit=PER_PASS)
                pruned += jobs + batches
                if max(jobs, batches) < PER_PASS or not await lease.renew():
                    break
            return pruned + await self._on.credentials.forget_unused(limit=PER_PASS)
