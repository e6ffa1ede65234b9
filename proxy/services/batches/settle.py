"""Care for every job of a batch that ended, whatever way it ended.

Both result files are read first, always: an expired, cancelled or even "failed"
batch may hold finished and paid answers. Only what is left open then is bought
again. Every step can be repeated after a crash.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog

from proxy.core.batch import (
    Batch,
    BatchState,
)
from proxy.core.batch_events import (
    BatchEnded,
    BatchEvent,
    BatchSettled,
    Confirmed,
    Delayed,
    Disowned,
    Harvested,
    TwinFound,
    TwinRead,
)
from proxy.core.choice import LaneFacts
from proxy.core.errors import (
    CREDENTIAL_CODES,
    CredentialRefusedError,
    ProviderRejectedError,
    ProviderUnavailableError,
)
from proxy.core.job import Job, advance
from proxy.core.outcomes import (
    ANOTHERS,
    INVALID_INPUT,
    TOO_MANY_TOKENS,
    UNBATCHABLE_CODES,
    UNCONFIRMED,
    after_batch,
)
from proxy.core.plan import enqueued
from proxy.ports.batches import Item
from proxy.ports.jobs import Credential, JobWrite
from proxy.ports.provider import Provider, ProviderBatch, ProviderBatchState
from proxy.services.access import Access
from proxy.services.batches.governor import TokenGovernor
from proxy.services.batches.ingest import CHUNK, Ingested, Ingestor
from proxy.services.batches.submit import SKEW
from proxy.services.batches.unnamed import LONGEST_CREATE, candidates, has_our_names
from proxy.services.ground import Ground, count_doubles, write_batch
from proxy.services.outlook import Outlook

log = structlog.get_logger()

SWEEP_FOR: Final = timedelta(hours=25)
"""How long after an unclear create a twin is looked for: a window and an hour."""

SWEEP_AFTER: Final = timedelta(minutes=15)
"""How long after an unclear create a twin is looked for the second time; each time after
that twice as late. Each look reads a long list, and late twins are ever less likely."""

READ_AGAIN_AFTER: Final = timedelta(seconds=30)

UNBATCHABLE_FOR: Final = timedelta(hours=24)
"""How long a model that a provider refused in batches is not tried again."""

GIVE_UP_READING_AFTER: Final = timedelta(hours=1)
"""How long a result file that the provider says is gone is asked for."""


def the_one(news: ProviderBatch, asked: str) -> ProviderBatch:
    """Return what was answered about a batch, if it is the batch that was asked for.

    Another's end would give our jobs back while they are computed, and its files would be
    deleted as if they were ours.

    Raises:
        ProviderUnavailableError: if it is another: ask again.
    """
    if news.id != asked:
        raise ProviderUnavailableError(f"asked for {asked}, the provider answered {news.id}")
    return news


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
        self._on = ground
        self._access = access
        self._ingestor = ingestor
        self._governor = governor
        self._outlook = outlook

    async def settle(self, batch: Batch, provider: Provider) -> Batch:
        """Read what there is, release the rest, and clean up; or say when to go on."""
        if batch.harvested_at is None:
            batch = await self._harvest(batch, provider)
            if batch.harvested_at is None or batch.ambiguous_since is not None:
                # Callers wait for the results of other batches, and nobody for a twin's.
                return batch
        searched = True
        if batch.ambiguous_since is not None:
            try:
                batch = await self._sweep(batch, provider)
            except ProviderUnavailableError as exc:
                log.warning("batch.unreached", batch_id=batch.id, code=exc.code, error=str(exc))
                searched = False
        batch = await self._read_twins(batch, provider, self._facts)
        if len(batch.twins_read) < len(batch.twins):
            return await self._later(batch, READ_AGAIN_AFTER)
        if batch.ambiguous_since is not None:
            passed = self._now() - batch.ambiguous_since
            if passed < SWEEP_FOR:
                # Nobody waits for it, and the list may be long.
                pause = max(passed, SWEEP_AFTER) if searched else SWEEP_AFTER
                return await self._later(batch, min(pause, SWEEP_FOR - passed))
            if not searched:
                await self._on.books.book_possible(batch, batch.count, why="unsearched")
        await self._clean_up(batch, provider)
        log.info("batch.settled", batch_id=batch.id, reason=batch.end_reason)
        return await self._write(batch, BatchSettled(self._now()))

    async def _harvest(self, batch: Batch, provider: Provider) -> Batch:
        """Read the results, and give back the jobs that have none; or say when to go on."""
        if batch.is_provisional:
            batch = await self._claim(batch, provider)
            if batch.is_provisional:
                return await self._later(batch, READ_AGAIN_AFTER)
        if not await self._read_all(batch, provider, batch.output_file_ids, self._facts):
            return await self._later(batch, READ_AGAIN_AFTER)
        await self._learn(batch)
        await self._release_rest(batch, self._facts)
        return await self._write(batch, Harvested(self._now()))

    def _facts(self, job: Job) -> LaneFacts:
        return self._outlook.facts(job.key)

    async def _claim(self, batch: Batch, provider: Provider) -> Batch:
        """Find out whose an adopted batch is; unchanged if that cannot be read yet."""
        try:
            ours = await self._is_ours(batch, provider, batch.output_file_ids)
        except ProviderRejectedError as exc:
            log.warning("batch.unreadable", batch_id=batch.id, error=str(exc))
            if not self._has_given_up(batch):
                return batch
            return await self._disown(batch, UNCONFIRMED)
        if not ours:
            return await self._disown(batch, ANOTHERS)
        log.info("batch.confirmed", batch_id=batch.id)
        self._count_unnamed(batch, "confirmed")
        return await self._write(batch, Confirmed())

    async def _disown(self, batch: Batch, reason: str) -> Batch:
        log.warning("batch.disowned", batch_id=batch.id, provider_batch_id=batch.provider_batch_id)
        self._count_unnamed(batch, "anothers" if reason == ANOTHERS else "unconfirmed")
        return await self._write(batch, Disowned(self._now(), reason))

    def _count_unnamed(self, batch: Batch, outcome: str) -> None:
        self._on.tally.count("create_unnamed", upstream=batch.key.upstream, outcome=outcome)

    async def _is_ours(self, batch: Batch, provider: Provider, file_ids: Sequence[str]) -> bool:
        """Return whether results carry a name that we issued in this batch."""
        for file_id in file_ids:

            async def look(credential: Credential, file_id: str = file_id) -> bool:
                lines = provider.results(credential, file_id)
                return await has_our_names(self._on, batch, lines)

            if await self._access.read(batch, look):
                return True
        return False

    async def forsake(self, batch: Batch) -> Batch:
        """Settle a batch unread: no credential may read it and nobody waits for it."""
        log.error("batch.unread", batch_id=batch.id, reason="no credential is let in")
        await self._on.books.book_possible(batch, batch.count, why="unread")
        if batch.state is not BatchState.ENDED:
            batch = await self._write(batch, BatchEnded(self._now(), "unreadable"))
        await self._on.batches.drop_items(batch.id)
        return await self._write(batch, BatchSettled(self._now()))

    async def _read_all(
        self,
        batch: Batch,
        provider: Provider,
        file_ids: Sequence[str],
        facts: Callable[[Job], LaneFacts],
        *,
        is_twin: bool = False,
    ) -> bool:
        """Ingest the files; false if one cannot be read yet."""
        for file_id in file_ids:

            async def read(credential: Credential, file_id: str = file_id) -> Ingested:
                sums = await self._ingestor.ingest(
                    batch,
                    provider.results(credential, file_id),
                    source=file_id,
                    facts=facts,
                    is_twin=is_twin,
                )
                log.info(
                    "batch.ingested",
                    batch_id=batch.id,
                    ended=sums.ended,
                    released=sums.released,
                    ignored=sums.ignored,
                )
                return sums

            try:
                sums = await self._access.read(batch, read)
            except ProviderRejectedError as exc:
                problem = str(exc)
            else:
                if not sums.is_another_thing:
                    continue
                # Given up at once, every answer that the file has would be bought again.
                problem = f"{file_id} holds no result"
            if not self._has_given_up(batch):
                log.warning("batch.unreadable", batch_id=batch.id, error=problem)
                return False
            log.warning("batch.unread", batch_id=batch.id, error=problem)
        return True

    def _has_given_up(self, batch: Batch) -> bool:
        return batch.ended_at is not None and (
            self._now() >= batch.ended_at + GIVE_UP_READING_AFTER
        )

    async def _learn(self, batch: Batch) -> None:
        """Note what the end of the batch says about the account or the model."""
        now = self._now()
        if batch.error_code == TOO_MANY_TOKENS:
            key = batch.key
            beside = enqueued(await self._on.batches.live(), key.credential, key.model)
            until = await self._governor.exceeded(
                key.credential, key.model, batch.tokens, others=beside, now=now
            )
            log.warning("batch.throttled", batch_id=batch.id, until=until.isoformat())
        elif batch.error_code in UNBATCHABLE_CODES:
            await self._outlook.note_unbatchable(batch.key, until=now + UNBATCHABLE_FOR)
        elif batch.error_code in CREDENTIAL_CODES:
            refusal = CredentialRefusedError(
                f"batch {batch.id}: {batch.error_code}", code=batch.error_code
            )
            await self._access.pause(batch.key.credential, refusal)

    async def _release_rest(self, batch: Batch, facts: Callable[[Job], LaneFacts]) -> None:
        """Give back every job that the batch left without a result."""
        bad_line = await self._bad_line(batch)
        released = 0
        async for items in self._on.batches.open_items(batch.id):
            for start in range(0, len(items), CHUNK):
                released += await self._release(
                    batch, items[start : start + CHUNK], bad_line, facts
                )
        if released:
            log.info("batch.released", batch_id=batch.id, jobs=released, reason=batch.end_reason)
            self._on.wake("flush")
            self._on.wake("escalate")

    async def _release(
        self,
        batch: Batch,
        items: Sequence[Item],
        bad_line: Item | None,
        facts: Callable[[Job], LaneFacts],
    ) -> int:
        attempts = {item.job_id: item.attempt for item in items}
        writes = []
        doubtful = set()
        for job in await self._on.jobs.get_many(list(attempts)):
            event = after_batch(
                job,
                attempts[job.id],
                batch,
                is_bad_line=bad_line is not None and bad_line.job_id == job.id,
                facts=facts(job),
                now=self._now(),
            )
            after = advance(job, event)
            if after is not job:
                writes.append(JobWrite(after))
            if event.possible_double:
                doubtful.add(job.id)
        # A refused one was cancelled by its caller at this moment.
        refused = await self._on.jobs.replace_many(writes)
        released = [write.after for write in writes if write.after.id not in refused]
        count_doubles(self._on, [job for job in released if job.id in doubtful])
        return len(released)

    async def _bad_line(self, batch: Batch) -> Item | None:
        """Return the one item whose line failed the whole batch, if that is why."""
        line = batch.error_line
        if line is None and batch.error_code == INVALID_INPUT and batch.count == 1:
            line = 1
        if line is None or batch.error_code in UNBATCHABLE_CODES:
            return None
        found, seen = None, 0
        async for items in self._on.batches.items(batch.id):
            if seen < line <= seen + len(items):
                found = items[line - seen - 1]
            seen += len(items)
        # Where jobs ended since, nobody can tell whose line it is. The next batch will be
        # without theirs, and its own error says it right.
        sent = batch.create_count if batch.input_count is None else batch.input_count
        return found if seen == sent else None

    async def _sweep(self, batch: Batch, provider: Provider) -> Batch:
        """Look for twins of a batch whose create was unclear; stop the younger."""
        assert batch.ambiguous_since is not None
        # A batch without a name is looked for from when it can have been created.
        named = provider.limits(batch.key.endpoint).names_batches
        begun = batch.ambiguous_since if named else batch.created_at
        since = begun - SKEW - timedelta(minutes=10)

        def find(credential: Credential) -> Awaitable[Sequence[ProviderBatch]]:
            return provider.find_batches(
                credential, batch.id, created_after=since, input_file_id=batch.input_file_id
            )

        seen = await self._access.read(batch, find)
        if not named:
            seen = await self._unnamed_twins(batch, provider, seen)
        for found in seen:
            if found.id == batch.provider_batch_id or found.id in batch.twins:
                continue
            log.error("batch.twin_found", batch_id=batch.id, provider_batch_id=found.id)
            self._on.tally.count("batch_twin", upstream=batch.key.upstream)
            batch = await self._write(batch, TwinFound(found.id))
        return batch

    async def _unnamed_twins(
        self, batch: Batch, provider: Provider, seen: Sequence[ProviderBatch]
    ) -> list[ProviderBatch]:
        """Return the strangers that are ours after all: they have ended, so it shows."""
        assert batch.ambiguous_since is not None
        to = batch.ambiguous_since + LONGEST_CREATE
        ours = []
        for one in await candidates(self._on, batch, seen, since=batch.created_at, to=to):
            if one.state is ProviderBatchState.ENDED and await self._is_ours(
                batch, provider, one.output_file_ids
            ):
                self._count_unnamed(batch, "twin")
                ours.append(one)
        return ours

    async def _read_twins(
        self, batch: Batch, provider: Provider, facts: Callable[[Job], LaneFacts]
    ) -> Batch:
        """Stop and read every twin, once: what it answered was bought twice, and is counted."""
        for twin_id in batch.twins:
            if twin_id in batch.twins_read:
                continue
            try:
                done = await self._read_twin(batch, twin_id, provider, facts)
            except ProviderRejectedError as exc:
                log.warning("batch.unreadable", batch_id=batch.id, error=str(exc))
                done = self._has_given_up(batch)
                if done:
                    await self._on.books.book_possible(batch, batch.count, why=twin_id)
            if done:
                batch = await self._write(batch, TwinRead(twin_id))
        return batch

    async def _read_twin(
        self, batch: Batch, twin_id: str, provider: Provider, facts: Callable[[Job], LaneFacts]
    ) -> bool:
        """Stop a twin and read what it answered; false while it still runs."""

        def retrieve(credential: Credential) -> Awaitable[ProviderBatch]:
            return provider.retrieve(credential, twin_id)

        def cancel(credential: Credential) -> Awaitable[ProviderBatch]:
            return provider.cancel(credential, twin_id)

        twin = the_one(await self._access.read(batch, retrieve), twin_id)
        can_cancel = provider.limits(batch.key.endpoint).can_cancel
        if twin.state is ProviderBatchState.RUNNING and can_cancel:
            twin = the_one(await self._access.read(batch, cancel), twin_id)
        if twin.state is not ProviderBatchState.ENDED:
            return False
        return await self._read_all(batch, provider, twin.output_file_ids, facts, is_twin=True)

    async def _clean_up(self, batch: Batch, provider: Provider) -> None:
        """Delete our files at the provider, then what we needed to read them."""
        names = [batch.input_file_id, *batch.output_file_ids]
        for file_id in names:
            if file_id is None:
                continue

            def delete(credential: Credential, file_id: str = file_id) -> Awaitable[None]:
                return provider.delete_file(credential, file_id)

            try:
                await self._access.read(batch, delete)
            except (CredentialRefusedError, ProviderRejectedError) as exc:
                # Files expire at the provider anyway; a key that is gone must not
                # keep a batch from being settled.
                log.warning("file.kept", batch_id=batch.id, code=exc.code)
        await self._on.batches.drop_items(batch.id)

    async def _later(self, batch: Batch, pause: timedelta) -> Batch:
        return await self._write(batch, Delayed(self._now() + pause))

    async def _write(self, batch: Batch, event: BatchEvent) -> Batch:
        return await write_batch(self._on.batches, batch, event)

    def _now(self) -> datetime:
        return self._on.clock.now()
