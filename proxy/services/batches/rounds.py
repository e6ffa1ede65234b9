"""Take every batch that is due one step further: each under its lease, a few at a time."""

from collections.abc import Awaitable, Callable, Collection
from typing import Final

from proxy.core.batch import Batch, BatchState
from proxy.core.ids import BatchId
from proxy.ports.provider import Provider
from proxy.services.access import Access
from proxy.services.batches.due import DueBatches
from proxy.services.batches.fanout import Fanout
from proxy.services.batches.stranded import StrandedBatches
from proxy.services.ground import Ground
from proxy.services.leases import HeldLease

AT_ONCE: Final = 4
"""Batches of one group that are on their way at once; more would only share the line."""

Step = Callable[[Batch, Provider, HeldLease], Awaitable[Batch]]
"""Takes a batch one step further while its lease is held; returns it as it is then."""


class BatchRounds:
    """Runs `step` for each due batch that is in one of `states`."""

    def __init__(
        self,
        ground: Ground,
        *,
        access: Access,
        states: Collection[BatchState],
        step: Step,
        group: Callable[[Batch], str],
    ) -> None:
        """`group` names those that take turns: one that is slow holds up its own group alone."""
        self._ground = ground
        self._access = access
        self._states = states
        self._step = step
        self._group = group
        self._due = DueBatches(ground.clock)
        self._stranded = StrandedBatches(access.has_batches)
        self._fanout: Fanout[BatchId] = Fanout(limit=AT_ONCE)

    async def run_once(self) -> int:
        """Take every due batch one step further; return how many moved.

        May be called while another call is under way.
        """
        due = self._stranded.without(
            self._due.among(await self._ground.batches.live(), self._states)
        )
        return await self._fanout.each([(batch.id, self._group(batch)) for batch in due], self._one)

    async def _one(self, batch_id: BatchId) -> bool:
        async with self._ground.leases.held(f"batch:{batch_id}") as lease:
            # Read again under the lease: another instance may have moved it.
            batch = await self._ground.batches.get(batch_id)
            if lease is None or batch is None or batch.state not in self._states:
                return False
            provider = self._access.provider(batch.key.upstream)
            assert provider is not None  # or it would be stranded
            after = await self._step(batch, provider, lease)
            return after.version != batch.version
