"""Find out whether a begun create happened. Sends nothing that costs."""

from datetime import timedelta
from typing import Final

import structlog

from proxy.core.batch import Batch, BatchState
from proxy.core.batch_events import CreateUnclear, Delayed, PutBack, TwinFound
from proxy.core.errors import CredentialRefusedError, ProviderError, ProviderRejectedError
from proxy.core.plan import PollPace
from proxy.ports.jobs import Credential
from proxy.ports.provider import Provider, ProviderBatch
from proxy.services.access import Access
from proxy.services.batches.in_vain import WINDOW_AND_HOUR
from proxy.services.batches.steps import SubmissionSteps, SubmitTimes
from proxy.services.batches.unnamed import LONGEST_CREATE, candidates, count_unnamed
from proxy.services.ground import Ground

log = structlog.get_logger()

SEARCHES: Final = 2
"""How many searches in vain prove that a create did not happen.

How long a new batch can be missing from a provider's list is not documented.
"""

GIVE_UP_SEARCHING_AFTER: Final = WINDOW_AND_HOUR
"""How long a create is searched for in lists that cannot be read. Its jobs wait meanwhile, and
what it may have bought has ended by then."""

LIST_SKEW: Final = timedelta(minutes=10)
"""How far the provider's clock may be from ours when its lists are searched."""


class Recoverer:
    """Searches for the batch that a create may have made although its answer was lost."""

    def __init__(
        self,
        ground: Ground,
        *,
        access: Access,
        times: SubmitTimes,
        pace: PollPace,
        steps: SubmissionSteps,
    ) -> None:
        self._ground = ground
        self._access = access
        self._times = times
        self._pace = pace
        self._steps = steps

    async def recover(self, batch: Batch, provider: Provider) -> Batch:
        """Adopt what the create made, or free the batch to be sent again; or look later."""
        assert batch.create_started_at is not None
        now = self._ground.now()
        patience = self._ground.leases.ttl + self._times.create_timeout
        # A batch without a holder: its sender noted that this create failed, so it is no
        # longer on its way. (`ambiguous_since` may be that of an earlier create.)
        if batch.holder is not None and now < batch.create_started_at + patience:
            return batch
        try:
            found = await self._search(batch, provider)
        except ProviderError as exc:
            return await self._unsearched(batch, exc)
        if not provider.limits(batch.key.endpoint).names_batches:
            return await self._recover_unnamed(batch, found)
        if not found:
            return await self._not_found(batch)
        adopted = await self._adopt(batch, found[0])
        for twin in found[1:]:
            adopted = await self._ground.write_batch(adopted, TwinFound(twin.id))
        return adopted

    async def _recover_unnamed(self, batch: Batch, found: list[ProviderBatch]) -> Batch:
        """Adopt the one batch that may be ours; of several none."""
        begun = batch.create_started_at
        assert begun is not None
        likely = await candidates(
            self._ground, batch, found, since=begun, to=begun + LONGEST_CREATE
        )
        if len(likely) == 1:
            count_unnamed(self._ground, batch, "adopted")
            return await self._adopt(batch, likely[0], provisional=True)
        after = await self._not_found(batch)
        if after.state is BatchState.SEALED:
            count_unnamed(self._ground, batch, "several" if likely else "absent")
            if likely:
                # One of them may be ours, and be paid for.
                why = f"create:{batch.create_started_at}"
                await self._ground.books.book_possible(batch, batch.create_count, why=why)
        return after

    async def _adopt(
        self, batch: Batch, found: ProviderBatch, *, provisional: bool = False
    ) -> Batch:
        log.info("batch.adopted", batch_id=batch.id, provider_batch_id=found.id)
        self._ground.tally.count("batch_adopted", upstream=batch.key.upstream)
        return await self._steps.created(batch, found, provisional=provisional)

    async def _not_found(self, batch: Batch) -> Batch:
        """Note a search in vain; after the last of them the batch is free to be sent again."""
        now = self._ground.now()
        in_vain = CreateUnclear(now, now + self._times.search_pause, searched=True)
        searched = await self._steps.take(batch, in_vain)
        if searched is None or searched.searches < SEARCHES:
            return searched or batch
        log.info("batch.absent", batch_id=batch.id, searches=searched.searches)
        return await self._steps.take(searched, PutBack(now)) or searched

    async def _unsearched(self, batch: Batch, exc: ProviderError) -> Batch:
        """Search again later; until then nothing is known and nothing is sent."""
        log.warning("batch.unreached", batch_id=batch.id, code=exc.code, error=str(exc))
        assert batch.create_started_at is not None
        now, pause, refused_at = self._ground.now(), self._times.search_pause, None
        is_given_up = now >= batch.create_started_at + GIVE_UP_SEARCHING_AFTER
        if isinstance(exc, CredentialRefusedError):
            pause, refused_at = self._pace.slowest, now
            is_given_up = await self._ground.is_forsaken(batch)
        if is_given_up:
            await self._ground.books.book_possible(batch, batch.create_count, why="unsearched")
            return await self._steps.dissolve(batch, "its create is unclear")
        return await self._steps.take(batch, Delayed(now + pause, refused_at)) or batch

    async def _search(self, batch: Batch, provider: Provider) -> list[ProviderBatch]:
        assert batch.create_started_at is not None
        begun = min(batch.create_started_at, batch.ambiguous_since or batch.create_started_at)
        named = provider.limits(batch.key.endpoint).names_batches

        async def find(credential: Credential) -> list[ProviderBatch]:
            found = await provider.find_batches(
                credential,
                batch.id,
                created_after=begun - LIST_SKEW,
                input_file_id=batch.input_file_id,
            )
            if credential.id != batch.key.credential and (not found or not named):
                # The lists of another key's project prove nothing by their silence, and
                # without names nothing at all.
                raise ProviderRejectedError("not to be seen with this credential")
            return list(found)

        return await self._access.with_any_credential(batch, find)
