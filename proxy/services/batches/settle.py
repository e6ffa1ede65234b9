"""Care for every job of a batch that ended, whatever way it ended.

Both result files are read first, always: an expired, cancelled or even "failed"
batch may hold finished and paid answers. Only what is left open then is bought
again. Every step can be repeated after a crash.
"""

from datetime import timedelta

import structlog

from proxy.core.batch import Batch, BatchState
from proxy.core.batch_ends import (
    ANOTHERS,
    TOO_MANY_TOKENS,
    UNBATCHABLE_CODES,
    UNCONFIRMED,
    ran_to_its_end,
)
from proxy.core.batch_events import (
    BatchEnded,
    BatchSettled,
    Confirmed,
    Delayed,
    Harvested,
    ResultsNamed,
)
from proxy.core.errors import (
    CREDENTIAL_CODES,
    CredentialRefusedError,
    ProviderError,
    ProviderRejectedError,
)
from proxy.core.ids import BatchId
from proxy.core.plan import enqueued
from proxy.ports.provider import Provider, ProviderBatchState
from proxy.services.access import Access
from proxy.services.batches.at_provider import ask
from proxy.services.batches.clean_up import Cleaner
from proxy.services.batches.governor import TokenGovernor
from proxy.services.batches.ingest import Ingestor
from proxy.services.batches.release import Releaser
from proxy.services.batches.result_files import EMPTY_FOR, ResultFiles, is_given_up
from proxy.services.batches.twins import READ_AGAIN_AFTER, Twins
from proxy.services.batches.unnamed import count_unnamed, disown
from proxy.services.ground import Ground
from proxy.services.outlook import Outlook
from proxy.services.pauses import keep_in_mind

log = structlog.get_logger()


class Settler:
    """Settles one batch that is `ENDED`."""

    def __init__(
        self,
        ground: Ground,
        *,
        access: Access,
        ingestor: Ingestor,
        governor: TokenGovernor,
        outlook: Outlook,
    ) -> None:
        self._ground = ground
        self._access = access
        self._governor = governor
        self._outlook = outlook
        self._files = ResultFiles(ground, access=access, ingestor=ingestor)
        self._releaser = Releaser(ground, outlook=outlook)
        self._twins = Twins(ground, access=access, files=self._files)
        self._cleaner = Cleaner(ground, access=access)
        self._learned: dict[BatchId, None] = {}
        """Batches that were learned from. One with a job that cannot be read is harvested again and
        again, and each time the next ones would be halved, or its credential paused."""

    async def settle(self, batch: Batch, provider: Provider) -> Batch:
        """Read what there is, release the rest, and clean up; or say when to go on."""
        if batch.harvested_at is None or await self._is_open_again(batch):
            batch = await self._harvest(batch, provider)
            is_another_at_it = batch.state is not BatchState.ENDED
            if is_another_at_it or batch.harvested_at is None or batch.ambiguous_since is not None:
                # Callers wait for the results of other batches, and nobody for a twin's.
                return batch
        batch, pause = await self._twins.care(batch, provider)
        pause = pause or self._kept_for(batch)
        if pause is not None:
            return await self._later(batch, pause)
        await self._cleaner.clean_up(batch, provider)
        log.info("batch.settled", batch_id=batch.id, reason=batch.end_reason)
        return await self._ground.write_batch(batch, BatchSettled(self._ground.now()))

    async def forsake(self, batch: Batch) -> Batch:
        """Settle a batch unread: no credential may read it and nobody waits for it."""
        log.error("batch.unread", batch_id=batch.id, reason="no credential is let in")
        # By the word of a search in vain: if that came first, it has booked the same lines.
        await self._ground.books.book_possible(batch, batch.count, why="unsearched")
        if batch.state is not BatchState.ENDED:
            batch = await self._ground.write_batch(
                batch, BatchEnded(self._ground.now(), "unreadable")
            )
        await self._ground.batches.drop_items(batch.id)
        return await self._ground.write_batch(batch, BatchSettled(self._ground.now()))

    async def _harvest(self, batch: Batch, provider: Provider) -> Batch:
        """Read the results, and give back the jobs that have none; or say when to go on."""
        if batch.is_provisional:
            batch = await self._claim(batch, provider)
            if batch.is_provisional:
                return await self._later(batch, READ_AGAIN_AFTER)
        read = await self._files.ingest(batch, provider, batch.output_file_ids)
        if read is None:
            return await self._later(await self._named_anew(batch, provider), READ_AGAIN_AFTER)
        if not await self._ground.is_unmoved(batch):
            # A batch that another instance has settled meanwhile has no items left, by which its
            # lines are known to be ours: each would count as one that nobody saw.
            return await self._ground.read_again(batch)
        if batch.id not in self._learned:
            await self._learn(batch)
            keep_in_mind(self._learned, batch.id, None)
        await self._releaser.release(batch, read.told)
        if read.unread:
            # None of these waits: of an answer that was bought for nobody nothing else will tell.
            await self._ground.books.book_possible(batch, read.unread, why="unread jobs")
        return await self._ground.write_batch(batch, Harvested(self._ground.now()))

    async def _named_anew(self, batch: Batch, provider: Provider) -> Batch:
        """Return the batch with the results that its provider names now.

        It may name them in part at first, or elsewhere later: asked for by their old names until
        they are given up, every answer would be bought again.
        """
        if batch.provider_batch_id is None:
            return batch
        try:
            news = await ask(self._access, batch, provider.retrieve, batch.provider_batch_id)
        except ProviderError:
            # It is asked again, as long as they cannot be read.
            return batch
        names = news.output_file_ids
        if news.state is not ProviderBatchState.ENDED or names in ((), batch.output_file_ids):
            return batch
        log.info("batch.renamed", batch_id=batch.id)
        return await self._ground.write_batch(batch, ResultsNamed(names))

    async def _is_open_again(self, batch: Batch) -> bool:
        """Return whether the store has lost results, and still knows that all were read.

        One node of a cluster may, when its replica takes over.
        """
        if not self._ground.setback or not await self._ground.is_awaited(batch):
            return False
        log.warning("batch.open_again", batch_id=batch.id)
        return True

    def _kept_for(self, batch: Batch) -> timedelta | None:
        """Return how much longer the files of a batch stay at its provider, to be read again."""
        assert batch.harvested_at is not None
        setback = self._ground.setback
        left = batch.harvested_at + setback - self._ground.now()
        # More left than there was means that the clock was set back: its old time may be far.
        return left if timedelta() < left <= setback else None

    async def _claim(self, batch: Batch, provider: Provider) -> Batch:
        """Find out whose an adopted batch is; unchanged if that cannot be read yet."""
        try:
            ours = await self._files.name_us(batch, provider, batch.output_file_ids)
        except ProviderRejectedError as exc:
            log.warning("batch.unreadable", batch_id=batch.id, error=str(exc))
            if not is_given_up(batch, self._ground.now()):
                return batch
            return await disown(self._ground, batch, UNCONFIRMED)
        if ours is None and batch.error_code is None:
            # Taken at its word, an empty answer would give up what may be ours and paid for.
            is_over = batch.ended_at is None or self._ground.now() >= batch.ended_at + EMPTY_FOR
            return await disown(self._ground, batch, UNCONFIRMED) if is_over else batch
        if not ours:
            return await disown(self._ground, batch, ANOTHERS)
        log.info("batch.confirmed", batch_id=batch.id)
        count_unnamed(self._ground, batch, "confirmed")
        return await self._ground.write_batch(batch, Confirmed())

    async def _learn(self, batch: Batch) -> None:
        """Note what the end of the batch says about the account or the model."""
        now = self._ground.now()
        if batch.error_code == TOO_MANY_TOKENS:
            queue = batch.key.provider_queue
            others = enqueued(await self._ground.batches.live(), queue)
            until = await self._governor.exceeded(queue, batch.tokens, others=others, now=now)
            log.warning("batch.throttled", batch_id=batch.id, until=until.isoformat())
        elif batch.error_code in UNBATCHABLE_CODES:
            await self._outlook.experience.note_unbatchable(batch.key)
        elif batch.error_code in CREDENTIAL_CODES:
            refusal = CredentialRefusedError(
                f"batch {batch.id}: {batch.error_code}", code=batch.error_code
            )
            await self._access.pause(batch.key.credential, refusal)
        elif ran_to_its_end(batch):
            await self._governor.let_in(batch.key.provider_queue, batch.tokens, now=now)

    async def _later(self, batch: Batch, pause: timedelta) -> Batch:
        return await self._ground.write_batch(batch, Delayed(self._ground.now() + pause))
