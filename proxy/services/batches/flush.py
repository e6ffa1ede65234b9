"""Move queued jobs into batches, and those that cannot wait for one out again."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import structlog

from proxy.core.bad_lines import LOOKED_THROUGH, cut_sizes
from proxy.core.batch import Batch, BatchState, advance
from proxy.core.batch_events import Sealed
from proxy.core.choice import LaneFacts
from proxy.core.ids import BatchId
from proxy.core.job import Job, Rerouted
from proxy.core.job import advance as advance_job
from proxy.core.lanes import BatchKey, Lane, LaneChoice, ProviderQueue
from proxy.core.plan import (
    Flush,
    FlushLimits,
    Head,
    OpenBatches,
    due_flush,
    due_reroute,
    fair_order,
    free_tokens,
    next_choice,
    open_batches,
    yields_to_flex,
)
from proxy.ports.jobs import JobWrite
from proxy.ports.provider import Provider
from proxy.services.access import Access
from proxy.services.batches.claim import claim_all
from proxy.services.batches.governor import TokenGovernor
from proxy.services.ground import Ground
from proxy.services.leases import HeldLease
from proxy.services.outlook import Outlook
from proxy.services.unread import UnreadQueues

log = structlog.get_logger()

REROUTES_PER_PASS: Final = 500
"""Bounds a pass: jobs come near their deadline by the thousand after an outage."""


class Flusher:
    """Places due jobs in batches; one call of `run_once` is one pass."""

    def __init__(
        self,
        ground: Ground,
        *,
        access: Access,
        governor: TokenGovernor,
        limits: FlushLimits,
        outlook: Outlook,
        new_batch_id: Callable[[], BatchId],
    ) -> None:
        self._ground = ground
        self._access = access
        self._governor = governor
        self._limits = limits
        self._outlook = outlook
        self._new_batch_id = new_batch_id
        self._cut_sizes: Mapping[BatchKey, int] = {}
        """The most jobs that batches of a key may hold; read by each pass."""

        self._unread = UnreadQueues()
        self._strange: set[str] = set()
        """Upstreams of jobs that only other instances can place."""

    async def run_once(self) -> int:
        """Flush and reroute what is due now; return the number of jobs moved."""
        async with self._ground.leases.held("pass:flush") as lease:
            return 0 if lease is None else await self._flush(lease)

    async def _flush(self, lease: HeldLease) -> int:
        await self._governor.refresh()
        live = await self._ground.batches.live()
        under_way = dict(open_batches(live))
        heads = await self._heads()
        begun = [
            batch
            for batch in live
            if batch.state is BatchState.FILLING and self._outlook.knows(batch.key.upstream)
        ]
        if begun or any(head.key.lane is Lane.BATCH for head in heads):
            recent = await self._ground.batches.recent(limit=LOOKED_THROUGH)
            self._cut_sizes = cut_sizes(recent, now=self._ground.now())
        filled, unread = 0, set[BatchKey]()
        if begun:
            filled, unread = await self._fill_begun(begun, heads, under_way, lease)
            heads = await self._heads()
        self._outlook.saw_heads(heads)
        rerouted = sum([await self._apart(head, self._reroute(head)) for head in heads])
        if rerouted:
            heads = await self._heads()
        heads = [head for head in heads if head.key not in unread]
        return filled + rerouted + await self._flush_due(heads, under_way, lease)

    async def _fill_begun(
        self,
        begun: Sequence[Batch],
        heads: Sequence[Head],
        under_way: Mapping[ProviderQueue, OpenBatches],
        lease: HeldLease,
    ) -> tuple[int, set[BatchKey]]:
        """Seal batches whose instance died before it could, or could not read their queues.

        Returns how many jobs they hold, and the keys of queues that cannot be read here either.
        """
        waiting = {head.key: head.count for head in heads}
        filled, unread = 0, set[BatchKey]()
        for batch in begun:
            fill = self._fill(batch, self._flush_of(batch, under_way), lease)
            sealed = await self._unread.apart(batch.key, fill, jobs=waiting.get(batch.key, 0))
            if sealed is None:
                unread.add(batch.key)
            else:
                filled += sealed.count
        return filled, unread

    async def _apart(self, head: Head, work: Awaitable[int]) -> int:
        """Return how many jobs of `head` were moved: none if something cannot be read."""
        return await self._unread.apart(head.key, work, jobs=head.count) or 0

    async def _flush_due(
        self, heads: Sequence[Head], under_way: dict[ProviderQueue, OpenBatches], lease: HeldLease
    ) -> int:
        """Flush what is due of `heads` while the lease is ours; return the number of jobs moved.

        Batches that are made on the way are added to `under_way`.
        """
        moved = 0
        for head in fair_order([head for head in heads if head.key.lane is Lane.BATCH]):
            if not await lease.renew():
                break
            moved += await self._apart(head, self._flush_all(head, under_way, lease))
        return moved

    async def _heads(self) -> list[Head]:
        """Return the heads of upstreams that are known here, and warn of the others once."""
        known, strange = [], Counter[str]()
        for head in await self._ground.batches.heads():
            if self._outlook.knows(head.key.upstream):
                known.append(head)
            else:
                strange[head.key.upstream] += head.count
        for upstream in strange.keys() - self._strange:
            log.warning(
                "job.stranded",
                upstream=upstream,
                jobs=strange[upstream],
                hint="no upstream of that name is configured here: unless another instance has it,"
                " they wait until their deadlines",
            )
        self._strange = set(strange)
        return known

    async def _flush_all(
        self, head: Head, under_way: dict[ProviderQueue, OpenBatches], lease: HeldLease
    ) -> int:
        """Flush `head` as often as it is due: 200,000 jobs make several batches.

        Each is added to `under_way`, since the next one must fit in beside it.
        """
        moved = 0
        queue = head.key.provider_queue
        while True:
            seen = under_way.get(queue, OpenBatches())
            facts = self._outlook.facts(head.key)
            flush = self._due(head, seen, facts)
            if flush is None:
                return moved
            flex = yields_to_flex(head, facts, now=self._ground.now(), limits=self._limits)
            if flex is not None:
                return moved + await self._give_to(flex, head)
            batch = Batch(
                id=self._new_batch_id(),
                key=flush.key,
                created_at=self._ground.now(),
                flush_reason=flush.reason,
            )
            await self._ground.batches.add(batch)
            sealed = await self._fill(batch, flush, lease) or batch
            moved += sealed.count
            under_way[queue] = OpenBatches(seen.count + 1, seen.tokens + sealed.tokens)
            heads = await self._ground.batches.heads()
            rest = next((one for one in heads if one.key == flush.key), None)
            if rest is None or sealed.count == 0:
                return moved
            head = rest

    def _due(self, head: Head, seen: OpenBatches, facts: LaneFacts) -> Flush | None:
        provider = self._access.provider(head.key.upstream)
        if provider is None:
            return None
        now = self._ground.now()
        resting = self._governor.resting_until(head.key.provider_queue)
        if resting is not None and now < resting:
            return None
        limits = self._limits_of(head.key, provider)
        return due_flush(head, seen, now=now, limits=limits, facts=facts)

    def _limits_of(self, key: BatchKey, provider: Provider) -> FlushLimits:
        most = min(self._limits.max_requests, provider.limits(key.endpoint).max_requests)
        most = min(most, self._cut_sizes.get(key, most))
        return replace(
            self._limits,
            max_requests=most,
            max_bytes=min(self._limits.max_bytes, _max_body_bytes(provider, key, most)),
            max_tokens=self._governor.max_tokens(key.provider_queue, now=self._ground.now()),
        )

    def _flush_of(self, batch: Batch, under_way: Mapping[ProviderQueue, OpenBatches]) -> Flush:
        """Return the flush that began `batch`, as it would be now."""
        key, provider = batch.key, self._access.provider(batch.key.upstream)
        limits = self._limits if provider is None else self._limits_of(key, provider)
        tokens = limits.max_tokens
        if tokens is not None:
            tokens = free_tokens(tokens, under_way.get(key.provider_queue, OpenBatches()))
        return Flush(key, batch.flush_reason, limits.max_requests, limits.max_bytes, tokens)

    async def _fill(self, batch: Batch, flush: Flush, lease: HeldLease) -> Batch | None:
        """Claim until the batch is complete, and seal it; nothing if another instance goes on.

        So it does where this one was suspended for longer than its lease.
        """
        provider = self._access.provider(flush.key.upstream)
        claimed = await claim_all(
            self._ground.batches,
            batch,
            flush,
            max_inputs=provider.limits(flush.key.endpoint).max_inputs if provider else None,
            clock=self._ground.clock,
            may_go_on=lease.is_valid,
        )
        if claimed is None:
            log.warning("lease.lost", name=lease.name)
            return None
        sealed = advance(
            batch,
            Sealed(claimed.count, claimed.body_bytes, claimed.tokens, claimed.nearest_deadline),
        )
        if not await self._ground.batches.replace(sealed):
            return None
        await self._ground.batches.note_size(flush.key, small=claimed.count < self._limits.worth)
        log.info(
            "batch.sealed",
            batch_id=batch.id,
            jobs=claimed.count,
            body_bytes=claimed.body_bytes,
            reason=flush.reason,
        )
        self._ground.wake("submit")
        return sealed

    async def _reroute(self, head: Head) -> int:
        """Take out the jobs that their lane cannot answer in time; return how many."""
        reroute = due_reroute(head, self._outlook.facts(head.key), now=self._ground.now())
        if reroute is None:
            return 0
        jobs = await self._ground.queue.due(
            reroute.key, before=reroute.before, limit=REROUTES_PER_PASS
        )
        now = self._ground.now()
        return await self._move(
            [
                (job, choice)
                for job in jobs
                if (choice := next_choice(job.lane, job.deadline, reroute.facts, now=now))
            ]
        )

    async def _give_to(self, choice: LaneChoice, head: Head) -> int:
        """Move the few jobs of `head` to another lane; return how many."""
        now = self._ground.now()
        jobs = await self._ground.queue.take(head.key, ready_at=now, limit=head.count)
        return await self._move([(job, choice) for job in jobs])

    async def _move(self, choices: Sequence[tuple[Job, LaneChoice]]) -> int:
        writes = [
            JobWrite(after)
            for job, choice in choices
            if (after := advance_job(job, Rerouted(choice))) is not job
        ]
        moved = await self._ground.write_jobs(writes)
        for lane, count in Counter(job.lane for job in moved).items():
            log.info("job.rerouted", jobs=count, lane=lane)
        if moved:
            self._ground.wake("escalate")
        return len(moved)


_CUSTOM_ID_CHARS_MAX: Final = 64
"""The limit of the providers that have one. Ours are shorter."""


def _max_body_bytes(provider: Provider, key: BatchKey, most: int) -> int:
    """Return how many bytes the bodies of `most` lines may have: their frames come on top.

    The frames of 50,000 bodies of 2 KB are 7 MB, more than any headroom of a limit.
    """
    framing = sum(map(len, provider.frame("x" * _CUSTOM_ID_CHARS_MAX, key.endpoint)))
    return max(provider.limits(key.endpoint).max_bytes - most * framing, 1)
