"""Ask after provider batches, stop the late ones, and settle those that ended."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import structlog

from proxy.core.batch import Batch, BatchState
from proxy.core.batch_ends import UNCONFIRMED
from proxy.core.batch_events import (
    BatchEnded,
    CancelStarted,
    Delayed,
    Missing,
    Polled,
    Vanished,
)
from proxy.core.errors import (
    CredentialRefusedError,
    ProviderBusyError,
    ProviderError,
    ProviderRejectedError,
    ProviderUnavailableError,
    StoreCorruptError,
)
from proxy.core.lanes import Lane, disown_at
from proxy.core.plan import (
    OpenBatches,
    PollPace,
    is_crowded,
    is_straggler,
    is_worth_another,
    next_poll,
    open_batches,
)
from proxy.core.turnaround import Ended, Stopped
from proxy.ports.provider import Provider, ProviderBatch, ProviderBatchState
from proxy.services.access import Access
from proxy.services.batches.at_provider import ask
from proxy.services.batches.governor import TokenGovernor
from proxy.services.batches.in_vain import ASKED_FOR, WINDOW_AND_HOUR, InVain
from proxy.services.batches.release import line_to_blame
from proxy.services.batches.result_files import EMPTY_FOR
from proxy.services.batches.rounds import BatchRounds
from proxy.services.batches.settle import Settler
from proxy.services.batches.twins import READ_AGAIN_AFTER
from proxy.services.batches.unnamed import disown
from proxy.services.ground import Ground
from proxy.services.leases import HeldLease
from proxy.services.outlook import Outlook

log = structlog.get_logger()

LOST_AFTER: Final = timedelta(minutes=10)
"""How long a provider may answer 404 for a batch that it had.

Right after a create that is a known lag of up to two minutes.
"""

GIVE_UP_WAITING_AFTER: Final = WINDOW_AND_HOUR
"""How long after the first deadline of its jobs, and its cancellation, the end of a batch is
waited for. A paid answer may come late, but no job waits for ever."""

UNREAD_PARTS: Final = 10
"""Where something of a batch cannot be read here, the next try comes after this part of the time
since its end: a tenth."""

_AT_PROVIDER: Final = frozenset({BatchState.IN_PROGRESS, BatchState.CANCELLING, BatchState.LOST})


class Collector:
    """Polls and settles; one call of `run_once` asks after every batch that is due."""

    def __init__(
        self,
        ground: Ground,
        *,
        access: Access,
        settler: Settler,
        outlook: Outlook,
        governor: TokenGovernor,
        pace: PollPace,
        jitter: Callable[[], float],
    ) -> None:
        self._ground = ground
        self._access = access
        self._settler = settler
        self._outlook = outlook
        self._governor = governor
        self._usual_pace = pace
        self._rounds = BatchRounds(
            ground,
            access=access,
            states=_AT_PROVIDER | {BatchState.ENDED},
            step=self._step,
            group=_group,
        )
        self._jitter = jitter
        self._in_vain = InVain(ground.clock)

    async def run_once(self) -> int:
        """Bring every due batch one step further; return how many moved.

        May be called while another call is under way.
        """
        return await self._rounds.run_once()

    def _must_disown(self, batch: Batch) -> bool:
        """Return whether we have waited long enough for a batch that may be somebody else's."""
        end = self._last_moment(batch)
        return batch.is_provisional and end is not None and self._ground.now() >= end

    def _last_moment(self, batch: Batch) -> datetime | None:
        """Return when a batch that has not ended is cancelled or, if it may not be, disowned."""
        if batch.is_provisional and batch.submitted_at and batch.nearest_deadline:
            times = self._outlook.experience.times(batch.key.upstream)
            return disown_at(batch.submitted_at, batch.nearest_deadline, batch.count, times)
        return self._outlook.cancel_at(batch)

    async def _step(self, batch: Batch, provider: Provider, lease: HeldLease) -> Batch:
        try:
            if batch.state in _AT_PROVIDER:
                batch = await self._poll(batch, provider)
            if batch.state is BatchState.ENDED:
                batch = await lease.during(self._settler.settle(batch, provider))
        except ProviderError as exc:
            return await self._unreached(batch, exc)
        except StoreCorruptError as exc:
            return await self._unread(batch, exc)
        return batch

    async def _unread(self, batch: Batch, exc: StoreCorruptError) -> Batch:
        """Try again later where something is damaged, or sealed with a key that is not here.

        Raises:
            StoreCorruptError: as it was met, if the batch is not given up for it.
        """
        now, batch = self._ground.now(), await self._ground.read_again(batch)
        in_vain = self._in_vain.asked_for(batch.id)
        if batch.state in _AT_PROVIDER and in_vain >= ASKED_FOR and self._is_over(batch):
            # Its credential: nobody can ask for it, nor read what it has.
            return await self._give_up(batch, "unread", str(exc))
        # At each try all that the provider has of it is read again: ever more seldom.
        pause = (now - (batch.ended_at or now)) / UNREAD_PARTS
        next_at = self._in_time(batch, now + max(pause, self._pace(batch).slowest))
        await self._ground.write_batch(batch, Delayed(next_at, None))
        raise exc

    async def _unreached(self, batch: Batch, exc: ProviderError) -> Batch:
        """Ask again later; a refused credential may take an operator to mend."""
        log.warning("batch.unreached", batch_id=batch.id, code=exc.code, error=str(exc))
        batch = await self._ground.read_again(batch)
        refused = isinstance(exc, CredentialRefusedError)
        pause = self._pace(batch).slowest if refused else self._pace(batch).interval
        pause = max(pause, exc.retry_after or timedelta())
        if refused and await self._ground.is_forsaken(batch):
            return await self._settler.forsake(batch)
        if self._must_disown(batch):
            return await disown(self._ground, batch, UNCONFIRMED)
        is_awaited = batch.state in _AT_PROVIDER and not refused
        if is_awaited and self._in_vain.is_hopeless(batch.id, exc, is_late=self._is_over(batch)):
            return await self._give_up(batch, "unreached", str(exc))
        now = self._ground.now()
        next_at = self._in_time(batch, now + pause * self._jitter())
        return await self._ground.write_batch(batch, Delayed(next_at, now if refused else None))

    def _is_over(self, batch: Batch) -> bool:
        """Return whether the end of a batch was waited for beyond all that it may take."""
        times = (batch.submitted_at, batch.nearest_deadline, batch.cancelled_at)
        last = max(time for time in times if time is not None)
        return self._ground.now() >= last + GIVE_UP_WAITING_AFTER

    async def _give_up(
        self, batch: Batch, reason: str, told: str, files: tuple[str, ...] = ()
    ) -> Batch:
        """Give back the jobs of a batch whose end nobody will see; it may be paid for.

        `files` are the results that it names all the same: what they answer is kept.
        """
        log.error("batch.unread", batch_id=batch.id, reason=reason, error=told)
        return await self._ground.write_batch(batch, BatchEnded(self._ground.now(), reason, files))

    async def _poll(self, batch: Batch, provider: Provider) -> Batch:
        """Ask how the batch stands, and note it: its end, its cancellation, or when to ask again.

        Raises:
            ProviderError: if the provider did not say.
        """
        assert batch.provider_batch_id is not None
        try:
            news = await ask(self._access, batch, provider.retrieve, batch.provider_batch_id)
        except ProviderRejectedError as exc:
            if exc.status_code != 404:
                raise
            return await self._missing(batch)
        self._in_vain.answered(batch.id)
        if news.state is ProviderBatchState.ENDED:
            if self._lacks_results(batch, news):
                log.warning("batch.unreadable", batch_id=batch.id, error="it names no results")
                return await self._ground.write_batch(
                    batch, Polled(self._ground.now() + READ_AGAIN_AFTER)
                )
            log.info("batch.ended", batch_id=batch.id, status=news.status)
            return await self._end(batch, news)
        if self._must_disown(batch):
            return await disown(self._ground, batch, UNCONFIRMED)
        if news.state is ProviderBatchState.RUNNING and await self._is_unwanted(batch, provider):
            return await self._cancel(batch, provider)
        if self._is_over(batch):
            return await self._give_up(batch, "unended", news.status, news.output_file_ids)
        cancelling = news.state is ProviderBatchState.CANCELLING
        next_at = self._next_poll(batch)
        self._ground.wake("collect", within=next_at - self._ground.now())
        return await self._ground.write_batch(batch, Polled(next_at, cancelling))

    def _lacks_results(self, batch: Batch, news: ProviderBatch) -> bool:
        """Return whether a batch that ended by itself may name its results a little later.

        Believed at once, every job of it would be bought again.
        """
        is_over = news.window_ends_at is not None and self._ground.now() >= news.window_ends_at
        has_named = bool(news.output_file_ids) and not news.lacks_answers
        if has_named or news.error_code is not None or batch.cancelled_at or is_over:
            return False
        results = f"results of {batch.id}"
        if self._in_vain.asked_for(results) < EMPTY_FOR:
            return True
        self._in_vain.answered(results)
        return False

    async def _is_unwanted(self, batch: Batch, provider: Provider) -> bool:
        """Return whether the batch must stop: late, or nobody wants its rest."""
        if batch.state is not BatchState.IN_PROGRESS or batch.is_provisional:
            return False
        limits = provider.limits(batch.key.endpoint)
        if not limits.can_cancel:
            return False
        if self._outlook.is_too_late(batch):
            return True
        if limits.keeps_partial_results and await self._is_in_the_way(batch):
            return True
        return not await self._ground.is_awaited(batch)

    async def _is_in_the_way(self, batch: Batch) -> bool:
        """Return whether a slow batch keeps its own jobs, or others, out of a quicker one."""
        key, now = batch.key, self._ground.now()
        if await self._access.own(key.credential) is None:
            # Nothing else could be bought with it now.
            return False
        facts = self._outlook.facts(key)
        if is_worth_another(batch, facts, now=now):
            return True
        max_tokens = self._governor.max_tokens(key.provider_queue, now=now)
        if max_tokens is None or not is_straggler(batch, facts.turnaround, now=now):
            return False
        under_way = open_batches(await self._ground.batches.live())
        beside = under_way.get(key.provider_queue, OpenBatches())
        return any(
            head.key.lane is Lane.BATCH
            and head.key.provider_queue == key.provider_queue
            and is_crowded(head, beside, max_tokens)
            for head in await self._ground.batches.heads()
        )

    async def _cancel(self, batch: Batch, provider: Provider) -> Batch:
        """Have the provider stop the batch; its end is asked for like any other.

        Raises:
            ProviderError: if it did not take that, and may do so yet.
        """
        assert batch.provider_batch_id is not None
        what = f"cancel of {batch.id}"
        try:
            news = await ask(self._access, batch, provider.cancel, batch.provider_batch_id)
        except (ProviderRejectedError, ProviderUnavailableError, ProviderBusyError) as exc:
            # Its status is still answered, so that without this it would be asked to stop for ever.
            is_over = self._is_over(batch)
            if not self._in_vain.is_hopeless(what, exc, is_late=is_over):
                raise
            return await self._give_up(batch, "unended", str(exc))
        self._in_vain.answered(what)
        log.info("batch.cancelled", batch_id=batch.id, status=news.status)
        self._ground.tally.count("batch_cancelled", upstream=batch.key.upstream)
        if news.state is ProviderBatchState.ENDED:
            return await self._end(batch, news)
        now = self._ground.now()
        return await self._ground.write_batch(
            batch, CancelStarted(now + self._pace(batch).first, now)
        )

    async def _end(self, batch: Batch, news: ProviderBatch) -> Batch:
        """Note the end, and learn from it how long such batches take."""
        now = self._ground.now()
        if batch.submitted_at is not None and news.error_code is None and not batch.is_provisional:
            key = batch.key
            took = (batch.cancelled_at or now) - batch.submitted_at
            observe = self._outlook.experience.observe
            observe(Ended(key.upstream, key.model, batch.submitted_at, took))
            if batch.cancelled_at is not None:
                observe(Stopped(key.upstream, now - batch.cancelled_at))
        ended = BatchEnded(
            at=now,
            reason=news.status,
            output_file_ids=news.output_file_ids,
            error_code=news.error_code,
            error_message=news.error_message,
            error_line=await line_to_blame(self._ground, batch, news.error_line),
        )
        return await self._ground.write_batch(batch, ended)

    async def _missing(self, batch: Batch) -> Batch:
        """Note that the provider does not know the batch. Right after a create it may not yet.

        After `LOST_AFTER` it is lost, and asked after more seldom; when its jobs must go
        another way, it has ended, and what it may have bought is booked.
        """
        now, pace = self._ground.now(), self._pace(batch)
        later = self._in_time(batch, now + pace.slowest)
        if batch.state is BatchState.LOST:
            end = self._outlook.cancel_at(batch)
            if end is None or now >= end:
                return await self._ground.write_batch(batch, BatchEnded(now, "lost"))
            return await self._ground.write_batch(batch, Missing(now, later))
        since = batch.missing_since or now
        if now - since < LOST_AFTER:
            return await self._ground.write_batch(
                batch, Missing(now, self._in_time(batch, now + pace.interval))
            )
        if batch.is_provisional:
            return await disown(self._ground, batch, UNCONFIRMED)
        log.error("batch.lost", batch_id=batch.id, provider_batch_id=batch.provider_batch_id)
        self._ground.tally.count("batch_lost", upstream=batch.key.upstream)
        return await self._ground.write_batch(batch, Vanished(later))

    def _next_poll(self, batch: Batch) -> datetime:
        due = next_poll(batch, self._pace(batch), now=self._ground.now(), jitter=self._jitter())
        return self._in_time(batch, due)

    def _in_time(self, batch: Batch, due: datetime) -> datetime:
        """Return `due`, or the time to cancel the batch if that comes before."""
        urgent = self._last_moment(batch)
        return urgent if urgent is not None and self._ground.now() < urgent < due else due

    def _pace(self, batch: Batch) -> PollPace:
        return self._access.pace(batch.key, self._usual_pace)


def _group(batch: Batch) -> str:
    """Return the group that takes turns: looking for twins reads long lists, and can wait."""
    kind = "collect" if batch.harvested_at is None else "sweep"
    return f"{batch.key.upstream} {kind}"
