"""The durable steps of a submission, which sending and searching have in common."""

from dataclasses import dataclass
from datetime import timedelta

import structlog

from proxy.core.batch import Batch, advance
from proxy.core.batch_events import BatchEvent, Confirmed, Created, Dissolved, TwinFound
from proxy.core.plan import PollPace
from proxy.ports.provider import ProviderBatch
from proxy.services.access import Access
from proxy.services.ground import Ground

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitTimes:
    """What the operator may set of the times that a submission takes."""

    create_timeout: timedelta = timedelta(seconds=120)
    """After this long no create of a live instance is still on its way."""

    search_pause: timedelta = timedelta(seconds=30)
    """Between two searches for a batch that a create may have made."""


class SubmissionSteps:
    """Writes what a submission has come to."""

    def __init__(self, ground: Ground, *, access: Access, pace: PollPace) -> None:
        self._ground = ground
        self._access = access
        self._pace = pace

    async def take(self, batch: Batch, event: BatchEvent) -> Batch | None:
        """Make our own next step durable; nothing if another instance moved the batch.

        Applied on top of what the other one did, a step of ours would send what is
        sent already, or end what is being bought.
        """
        after = advance(batch, event)
        return after if await self._ground.batches.replace(after) else None

    async def created(
        self, batch: Batch, answer: ProviderBatch, *, provisional: bool = False
    ) -> Batch:
        """Note what a create made, or what a search found; `provisional` if it may not be ours."""
        now = self._ground.now()
        log.info(
            "batch.submitted", batch_id=batch.id, provider_batch_id=answer.id, jobs=batch.count
        )
        self._ground.tally.count("batch_submitted", upstream=batch.key.upstream)
        self._ground.troubles.are_over(batch.key.upstream)
        event = Created(
            answer.id,
            now,
            answer.window_ends_at,
            now + self._access.pace(batch.key, self._pace).first,
            provisional=provisional,
        )
        # Whatever another instance made of the batch meanwhile: this one exists.
        after = await self._ground.write_batch(batch, event)
        self._ground.wake("collect", within=self._pace.first)
        if after.provider_batch_id != answer.id:
            # Someone else's create was noted first: both exist, ours is the twin.
            self._ground.tally.count("batch_twin", upstream=batch.key.upstream)
            return await self._ground.write_batch(after, TwinFound(answer.id))
        if after.is_provisional and not provisional:
            # Adopted by another instance while we were suspended: the answer is the proof.
            return await self._ground.write_batch(after, Confirmed())
        return after

    async def dissolve(self, batch: Batch, reason: str) -> Batch:
        """Give the jobs back to their queue: nothing was bought, or it is booked as possible."""
        log.info("batch.dissolved", batch_id=batch.id, jobs=batch.count, reason=reason)
        return await self.take(batch, Dissolved(self._ground.now(), reason)) or batch
