"""Read the result files of provider batches, as our access, our names and a late file allow."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import structlog

from proxy.core.batch import Batch
from proxy.core.errors import (
    ProviderBusyError,
    ProviderError,
    ProviderRejectedError,
    ProviderUnavailableError,
)
from proxy.ports.jobs import Credential
from proxy.ports.provider import Provider
from proxy.services.access import Access
from proxy.services.batches.in_vain import WINDOW_AND_HOUR, InVain
from proxy.services.batches.ingest import Ingested, Ingestor
from proxy.services.batches.unnamed import has_our_names
from proxy.services.ground import Ground

log = structlog.get_logger()

GIVE_UP_READING_AFTER: Final = timedelta(hours=1)
"""How long to go on asking for a result file that the provider says is gone, or elsewhere."""

GIVE_UP_UNREACHED_AFTER: Final = WINDOW_AND_HOUR
"""How long a provider is asked that fails to answer, or whose answer breaks off. Jobs wait
meanwhile, and none for ever."""

EMPTY_FOR: Final = timedelta(minutes=2)
"""How long to go on asking for results that have no line where there should be some. Believed,
they would have every job bought once more; but no deadline can wait for longer than this."""


class Read(NamedTuple):
    """What is known of a provider batch whose files were read."""

    told: int
    """How many of its jobs have a line in them."""

    unread: int
    """How many of those were bought for jobs that cannot be read themselves."""

    is_whole: bool
    """Whether no file was given up."""


class ResultFiles:
    """Reads the files of one batch after the other; each may be read again."""

    def __init__(self, ground: Ground, *, access: Access, ingestor: Ingestor) -> None:
        self._ground = ground
        self._access = access
        self._ingestor = ingestor
        self._in_vain = InVain(ground.clock)

    async def ingest(
        self, batch: Batch, provider: Provider, file_ids: Sequence[str], *, is_twin: bool = False
    ) -> Read | None:
        """Ingest the files; nothing if one cannot be read yet.

        Those that lack lines are read a second time. Cut off between two lines, as a gateway may
        do it, they look whole, and the others would be bought again.
        """
        read = await self._ingest_all(batch, provider, file_ids, is_twin=is_twin)
        if is_twin or read is None or not 0 < read.told < batch.lines_sent:
            return read
        if not _should_be_whole(batch) or not await self._ground.is_awaited(batch):
            return read
        log.info("batch.read_again", batch_id=batch.id, lines=batch.lines_sent - read.told)
        return await self._ingest_all(batch, provider, file_ids, is_twin=is_twin)

    async def _ingest_all(
        self, batch: Batch, provider: Provider, file_ids: Sequence[str], *, is_twin: bool
    ) -> Read | None:
        lines, own, unread, is_whole = 0, set[int](), set[int](), True
        for file_id in file_ids:
            sums = Ingested()
            failure = await self._ingest(batch, provider, file_id, sums, is_twin=is_twin)
            lines += sums.lines
            own |= sums.own
            unread |= sums.unread
            if failure is None:
                continue
            if not is_given_up(batch, self._ground.now()):
                log.warning("batch.unreadable", batch_id=batch.id, error=failure)
                return None
            log.warning("batch.unread", batch_id=batch.id, error=failure)
            is_whole = False
        if file_ids and not lines and not is_twin and await self._lacks_lines(batch):
            log.warning("batch.unreadable", batch_id=batch.id, error="its results are empty")
            return None
        return Read(len(own), len(unread), is_whole)

    async def _ingest(
        self, batch: Batch, provider: Provider, file_id: str, sums: Ingested, *, is_twin: bool
    ) -> str | None:
        """Ingest a file, adding to `sums`; return why it is not what it should be, if so."""

        async def read(credential: Credential) -> None:
            await self._ingestor.ingest(
                batch,
                provider.results(credential, file_id),
                sums,
                source=file_id,
                is_twin=is_twin,
            )

        try:
            await self._access.with_any_credential(batch, read)
        except ProviderRejectedError as exc:
            return str(exc)
        except (ProviderUnavailableError, ProviderBusyError) as exc:
            is_late = self._is_late(batch)
            if not _is_elsewhere(exc) and not self._in_vain.is_hopeless(
                file_id, exc, is_late=is_late
            ):
                raise
            return str(exc)
        self._in_vain.answered(file_id)
        log.info(
            "batch.ingested",
            batch_id=batch.id,
            ended=sums.ended,
            released=sums.released,
            ignored=sums.ignored,
        )
        # Given up at once, every answer that the file has would be bought again.
        return f"{file_id} holds no result" if sums.is_another_thing else None

    def _is_late(self, batch: Batch) -> bool:
        """Return whether the files of a batch should have been read long ago."""
        ended_at = batch.ended_at
        return ended_at is not None and self._ground.now() >= ended_at + GIVE_UP_UNREACHED_AFTER

    async def _lacks_lines(self, batch: Batch) -> bool:
        """Return whether empty results must be a mistake that will pass soon."""
        if not _should_be_whole(batch):
            return False
        if batch.ended_at is None or self._ground.now() >= batch.ended_at + EMPTY_FOR:
            return False
        return await self._ground.is_awaited(batch)

    async def name_us(
        self, batch: Batch, provider: Provider, file_ids: Sequence[str]
    ) -> bool | None:
        """Return whether results have a name that this batch issued; nothing if they have no name.

        Raises:
            ProviderRejectedError: if a file cannot be read, or not yet.
        """
        found = None
        for file_id in file_ids:

            async def look(credential: Credential, file_id: str = file_id) -> bool | None:
                lines = provider.results(credential, file_id)
                return await has_our_names(self._ground, batch, lines)

            told = await self._access.with_any_credential(batch, look)
            if told:
                return True
            found = found if told is None else told
        return found


def _should_be_whole(batch: Batch) -> bool:
    """Return whether nothing is known for which results could lack lines."""
    return batch.error_code is None and batch.cancelled_at is None


def _is_elsewhere(exc: ProviderError) -> bool:
    # Not followed: a credential goes to its upstream alone.
    return exc.status_code is not None and 300 <= exc.status_code < 400


def is_given_up(batch: Batch, now: datetime) -> bool:
    """Return whether the files of a batch that ended have been asked for long enough."""
    return batch.ended_at is not None and now >= batch.ended_at + GIVE_UP_READING_AFTER
