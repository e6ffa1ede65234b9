"""Show in the metrics what waits in the queue, at providers and for webhooks, and what it cost."""

import asyncio
from collections.abc import Sequence

from proxy.core.ledger import broken_down
from proxy.ports.ledger import LedgerStore
from proxy.services.ground import Ground
from proxy.telemetry import Metrics
from proxy.web.answering.holding import Holding


class Gauges:
    """Asks the stores now and then; between two passes a gauge stands still."""

    def __init__(
        self,
        ground: Ground,
        metrics: Metrics,
        holding: Holding,
        *,
        ledger: LedgerStore,
        webhooks: Sequence[str],
    ) -> None:
        self._ground = ground
        self._ledger = ledger
        self._metrics = metrics
        self._holding = holding
        self._webhooks = webhooks

    async def run_once(self) -> int:
        """Set every gauge."""
        self._metrics.show_queue(await self._ground.batches.heads())
        self._metrics.show_batches(await self._ground.batches.live())
        self._metrics.gauge("held_connections", self._holding.count)
        self._metrics.gauge("tasks", len(asyncio.all_tasks()))
        paused = [one for one in await self._ground.credentials.all() if one.paused_at]
        self._metrics.gauge("credentials_paused", len(paused))
        for name, standing in (await self._ground.notices.standing(self._webhooks)).items():
            self._metrics.gauge("webhook_pending", standing.pending, webhook=name)
            self._metrics.gauge("webhook_undelivered", standing.given_up, webhook=name)
        return 0

    async def show_money(self) -> int:
        """Set the gauges of money: by a pass of its own, as the ledger is longer to read."""
        today = self._ground.now().date()
        rows = await self._ledger.rows(since=today, until=today)
        self._metrics.show_money(
            {lane: sums for (lane,), sums in broken_down(rows, ("lane",)).items()}
        )
        return 0
