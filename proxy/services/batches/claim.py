"""Claim for one batch as much as fits into it."""

from collections.abc import Callable
from dataclasses import replace

from proxy.core.batch import Batch
from proxy.core.errors import StoreCorruptError
from proxy.core.ids import BatchId
from proxy.core.inputs import first_part, inputs_of, next_part
from proxy.core.plan import Flush
from proxy.ports.batches import BatchStore, Claimed, ClaimLimits
from proxy.ports.clock import Clock


async def claim_all(
    batches: BatchStore,
    batch: Batch,
    flush: Flush,
    *,
    max_inputs: int | None,
    clock: Clock,
    may_go_on: Callable[[], bool],
) -> Claimed | None:
    """Claim until the batch is complete, and return what it holds; nothing if stopped before.

    With `max_inputs` calls are claimed in parts, so that their inputs are hardly ever more in
    all. Where the last part carries more than those before it let expect, the provider
    refuses the batch, at no cost, and its jobs make smaller ones.
    """
    limits = ClaimLimits(
        max_requests=flush.max_requests, max_bytes=flush.max_bytes, max_tokens=flush.max_tokens
    )
    most = limits.max_requests
    if max_inputs is not None:
        most = min(most, first_part(max_inputs))
    while may_go_on():
        part = replace(limits, max_requests=most)
        claimed = await batches.claim(flush.key, batch.id, part, ready_at=clock.now())
        if not claimed.complete:
            continue
        if max_inputs is None or claimed.count < most or most == limits.max_requests:
            return claimed
        try:
            more = next_part(claimed.count, await _inputs(batches, batch.id), max_inputs)
        except StoreCorruptError:
            # It is filled no further, which costs no other batch anything. Whoever sends it meets
            # that call too, and gives its job back in time.
            more = 0
        if more == 0:
            return claimed
        most = min(claimed.count + more, limits.max_requests)
    return None


async def _inputs(batches: BatchStore, batch_id: BatchId) -> int:
    return sum([inputs_of(line.body) async for lines in batches.lines(batch_id) for line in lines])
