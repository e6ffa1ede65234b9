"""Find, stop and read the twins of a batch: what its unclear creates made besides it."""

from collections.abc import Awaitable, Sequence
from datetime import timedelta
from enum import Enum, auto
from typing import Final

import structlog

from proxy.core.batch import Batch
from proxy.core.batch_events import TwinFound, TwinRead
from proxy.core.errors import (
    CredentialRefusedError,
    ProviderBusyError,
    ProviderError,
    ProviderRejectedError,
    ProviderUnavailableError,
)
from proxy.ports.jobs import Credential
from proxy.ports.provider import Provider, ProviderBatch, ProviderBatchState
from proxy.services.access import Access
from proxy.services.batches.at_provider import ask
from proxy.services.batches.in_vain import WINDOW_AND_HOUR, InVain
from proxy.services.batches.recover import LIST_SKEW
from proxy.services.batches.result_files import ResultFiles, is_given_up
from proxy.services.batches.unnamed import LONGEST_CREATE, candidates, count_unnamed
from proxy.services.ground import Ground

log = structlog.get_logger()

SWEEP_FOR: Final = WINDOW_AND_HOUR
"""How long after an unclear create to look for its twins."""

SWEEP_AFTER: Final = timedelta(minutes=15)
"""How long after an unclear create to look a second time; each further look comes twice
as late. A look reads a long list, and the later, the less likely a twin is."""

UNCLEAR_WITHIN: Final = timedelta(minutes=10)
"""How long after its beginning a create is noted as unclear, at the latest. Its sender gives it
up after `batching.create_timeout`; if the sender died, others search once its lease has ended.
Where they came later still, as when all were down, their search went back to its beginning."""

GIVE_UP_TWINS_AFTER: Final = 2 * SWEEP_FOR
"""How long after an unclear create a twin that never ends, or is never answered about, keeps its
batch from being settled. It is booked as possibly bought then."""

READ_AGAIN_AFTER: Final = timedelta(seconds=30)
"""How long to wait for a file that cannot be read yet, or a twin that still runs."""


class _News(Enum):
    """How a twin stands."""

    READ = auto()
    PENDING = auto()
    """It runs, or its files cannot be read yet."""

    GIVEN_UP = auto()
    """Nobody will tell what it answered: all of it may have been bought."""


class Twins:
    """Cares for the twins of one batch at a time. Nobody waits for what they answer."""

    def __init__(self, ground: Ground, *, access: Access, files: ResultFiles) -> None:
        self._ground = ground
        self._access = access
        self._files = files
        self._in_vain = InVain(ground.clock)

    async def care(self, batch: Batch, provider: Provider) -> tuple[Batch, timedelta | None]:
        """Look for twins and read those that ended.

        Returns the batch as it is then, and when to look again; nothing if there is nothing
        left to look for.
        """
        was_searched = True
        if batch.ambiguous_since is not None:
            try:
                batch = await self._sweep(batch, provider)
            except CredentialRefusedError:
                raise
            except ProviderError as exc:
                log.warning("batch.unreached", batch_id=batch.id, code=exc.code, error=str(exc))
                was_searched = False
        batch = await self._read_all(batch, provider)
        if len(batch.twins_read) < len(batch.twins):
            return batch, READ_AGAIN_AFTER
        if batch.ambiguous_since is None:
            return batch, None
        passed = self._ground.now() - batch.ambiguous_since
        if passed < SWEEP_FOR:
            pause = max(passed, SWEEP_AFTER) if was_searched else SWEEP_AFTER
            return batch, min(pause, SWEEP_FOR - passed)
        if not was_searched:
            await self._ground.books.book_possible(batch, batch.count, why="unsearched")
        return batch, None

    async def _sweep(self, batch: Batch, provider: Provider) -> Batch:
        """Note every twin that the provider lists by now."""
        assert batch.ambiguous_since is not None
        # A batch without a name is looked for from when it can have been created.
        named = provider.limits(batch.key.endpoint).names_batches
        begun = batch.ambiguous_since if named else batch.created_at
        since = begun - LIST_SKEW - UNCLEAR_WITHIN

        def find(credential: Credential) -> Awaitable[Sequence[ProviderBatch]]:
            return provider.find_batches(
                credential, batch.id, created_after=since, input_file_id=batch.input_file_id
            )

        seen = await self._access.with_any_credential(batch, find)
        if not named:
            seen = await self._unnamed(batch, provider, seen)
        for found in seen:
            if found.id == batch.provider_batch_id or found.id in batch.twins:
                continue
            log.error("batch.twin_found", batch_id=batch.id, provider_batch_id=found.id)
            self._ground.tally.count("batch_twin", upstream=batch.key.upstream)
            batch = await self._ground.write_batch(batch, TwinFound(found.id))
        return batch

    async def _unnamed(
        self, batch: Batch, provider: Provider, seen: Sequence[ProviderBatch]
    ) -> list[ProviderBatch]:
        """Return the nameless batches that prove to be ours, now that they have ended."""
        assert batch.ambiguous_since is not None
        to = batch.ambiguous_since + LONGEST_CREATE
        ours = []
        for one in await candidates(self._ground, batch, seen, since=batch.created_at, to=to):
            if one.state is ProviderBatchState.ENDED and await self._files.name_us(
                batch, provider, one.output_file_ids
            ):
                count_unnamed(self._ground, batch, "twin")
                ours.append(one)
        return ours

    async def _read_all(self, batch: Batch, provider: Provider) -> Batch:
        """Stop and read every twin, once: what it answered was bought twice, and is counted."""
        for twin_id in batch.twins:
            if twin_id in batch.twins_read:
                continue
            news = await self._news_of(batch, twin_id, provider)
            self._in_vain.answered(twin_id)
            if news is _News.PENDING:
                continue
            if news is _News.GIVEN_UP:
                await self._ground.books.book_possible(batch, batch.count, why=twin_id)
            batch = await self._ground.write_batch(batch, TwinRead(twin_id))
        return batch

    async def _news_of(self, batch: Batch, twin_id: str, provider: Provider) -> _News:
        """Stop and read a twin, and tell how it stands.

        Raises:
            ProviderError: if the provider gave no answer, and may do so yet.
        """
        is_over = self._is_over(batch)
        try:
            if await self._read(batch, twin_id, provider):
                return _News.READ
        except ProviderRejectedError as exc:
            log.warning("batch.unreadable", batch_id=batch.id, error=str(exc))
            is_over = is_given_up(batch, self._ground.now())
        except (ProviderUnavailableError, ProviderBusyError) as exc:
            if not self._in_vain.is_hopeless(twin_id, exc, is_late=is_over):
                raise
        return _News.GIVEN_UP if is_over else _News.PENDING

    def _is_over(self, batch: Batch) -> bool:
        """Return whether a twin was waited for beyond all that it may take."""
        begun = batch.ambiguous_since or batch.ended_at
        return begun is not None and self._ground.now() >= begun + GIVE_UP_TWINS_AFTER

    async def _read(self, batch: Batch, twin_id: str, provider: Provider) -> bool:
        """Stop a twin and read what it answered; false while it still runs."""
        twin = await ask(self._access, batch, provider.retrieve, twin_id)
        can_cancel = provider.limits(batch.key.endpoint).can_cancel
        if twin.state is ProviderBatchState.RUNNING and can_cancel:
            twin = await ask(self._access, batch, provider.cancel, twin_id)
        if twin.state is not ProviderBatchState.ENDED:
            return False
        files = twin.output_file_ids
        read = await self._files.ingest(batch, provider, files, is_twin=True)
        if read is None:
            return False
        unseen = min(twin.count or batch.lines_sent, batch.count) - read.told
        # Without a file it was stopped before it began. What a file is silent about may have
        # been computed.
        is_silent = bool(files) and twin.error_code is None
        if unseen > 0 and (is_silent or not read.is_whole):
            if not await self._ground.is_unmoved(batch):
                # Whoever has settled it has dropped the names by which lines are known for ours.
                return False
            await self._ground.books.book_possible(batch, unseen, why=twin_id)
        return True
