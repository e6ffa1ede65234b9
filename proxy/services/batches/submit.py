"""Hand sealed batches to their provider, so that none is bought twice.

The order is the whole point. Each step is durable before the next begins:

1. the intent to submit this batch,
2. the file that the provider has for it,
3. that the paid call is about to be sent,
4. the provider's batch.

A crash or a lost answer between 3 and 4 leaves the batch in `SUBMITTING` with
`create_started_at` set. Nothing is sent again then until the provider's lists
were searched for our batch ID: twice, apart, and not before an instance that was
only slow must have given up.

Where batches have no names the search is less sure: see `proxy.services.batches.unnamed`.
"""

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Final

import structlog

from proxy.core.batch import Batch, BatchState
from proxy.core.batch_ends import EMPTY, INPUT_CHANGED, INPUT_MISSING, TOO_LATE
from proxy.core.batch_events import (
    CreateStarted,
    CreateUnclear,
    PutBack,
    Rejected,
    SubmissionStarted,
    Uploaded,
)
from proxy.core.errors import (
    CredentialRefusedError,
    ProviderBusyError,
    ProviderError,
    ProviderRejectedError,
    ProviderUnavailableError,
    StoreCorruptError,
)
from proxy.core.ids import BatchId
from proxy.core.plan import PollPace
from proxy.core.refusals import blames_money
from proxy.ports.jobs import Credential
from proxy.ports.provider import Provider, Submission
from proxy.services.access import Access
from proxy.services.batches.denials import Denials
from proxy.services.batches.recover import Recoverer
from proxy.services.batches.release import line_to_blame, release_unread
from proxy.services.batches.rounds import BatchRounds
from proxy.services.batches.steps import SubmissionSteps, SubmitTimes
from proxy.services.batches.submission import describe
from proxy.services.batches.unnamed import is_one_in_doubt
from proxy.services.ground import Ground
from proxy.services.leases import HeldLease, LeaseLostError
from proxy.services.outlook import Outlook
from proxy.services.pauses import keep_in_mind

log = structlog.get_logger()

INPUT_TRIES: Final = 5
"""How often a create is sent, half a minute apart, for an input that its provider does not
find: it may lag behind its upload. One that is gone is uploaded again, with the next batch."""

UNREAD_TRIES: Final = 20
"""How often a batch with a call that cannot be read is tried here, half a minute apart: another
instance may have the key that it is sealed with. Then the other calls go without it."""

RETRY_PAUSE: Final = timedelta(seconds=30)
"""How long a batch waits that could not be submitted, if its provider asks for no more."""

CHANGED_TRIES: Final = 5
"""How often a batch is submitted in which something changes meanwhile, until it waits: callers
may be cancelling jobs of it one by one."""

TURN_PAUSE: Final = timedelta(seconds=2)
"""How soon a batch that waits for another's create looks again."""


class Submitter:
    """Submits sealed batches and recovers begun submissions."""

    def __init__(
        self,
        ground: Ground,
        *,
        access: Access,
        times: SubmitTimes,
        outlook: Outlook,
        pace: PollPace,
    ) -> None:
        self._ground = ground
        self._access = access
        self._times = times
        self._outlook = outlook
        self._steps = SubmissionSteps(ground, access=access, pace=pace)
        self._recoverer = Recoverer(
            ground, access=access, times=times, pace=pace, steps=self._steps
        )
        self._rounds = BatchRounds(
            ground,
            access=access,
            states=(BatchState.SEALED, BatchState.SUBMITTING),
            step=self._step,
            group=_group,
        )
        self._denials = Denials(ground.clock, outlook.experience)
        self._unseen: dict[BatchId, int] = {}
        """How often the input of a batch was not found. A batch also comes back for
        other reasons, most of all where creates take turns."""

        self._unread: dict[BatchId, int] = {}
        """How often a batch had a call that could not be read."""

        self._changed: dict[BatchId, int] = {}
        """How often the input of a batch changed on its way."""

    async def run_once(self) -> int:
        """Bring every due submission one step further; return how many moved.

        May be called while another call is under way.
        """
        return await self._rounds.run_once()

    async def _step(self, batch: Batch, provider: Provider, lease: HeldLease) -> Batch:
        if batch.create_started_at is None:
            return await self._submit(batch, provider, lease)
        return await self._recoverer.recover(batch, provider)

    async def _submit(self, batch: Batch, provider: Provider, lease: HeldLease) -> Batch:
        """Upload the input of a batch and create it, or give its jobs back.

        What fails is cared for: the batch returned says how.
        """
        # Before its credential, which may not be readable here.
        if self._outlook.is_too_late(batch):
            return await self._steps.dissolve(batch, TOO_LATE)
        credential = await self._access.own(batch.key.credential)
        if credential is None:
            return await self._steps.dissolve(batch, "its credential is paused")
        started = await self._steps.take(batch, SubmissionStarted(self._ground.leases.instance))
        if started is None:
            return batch
        try:
            uploaded = await self._upload(started, provider, credential, lease)
        except ProviderError as exc:
            return await self._upload_failed(started, exc)
        except StoreCorruptError:
            await self._leave_unread(started, lease)
            raise
        if uploaded is None:
            log.warning("lease.lost", name=lease.name)
            return started
        return await self._create(uploaded, provider, credential, lease)

    async def _upload(
        self, batch: Batch, provider: Provider, credential: Credential, lease: HeldLease
    ) -> Batch | None:
        """Leave the input at the provider; nothing if another instance took over meanwhile."""
        if batch.input_file_id is not None:
            return batch
        submission = await self._submission(batch, provider)
        if submission.count == 0:
            nothing = Rejected(self._ground.now(), EMPTY, "every job was cancelled")
            return await self._steps.take(batch, nothing)
        file_id = None
        if batch.submissions > 1:
            # Where no list is to be had, a second upload costs nothing but its way.
            with suppress(ProviderRejectedError):
                file_id = await provider.find_upload(credential, submission)
        if file_id is None:
            file_id = await lease.during(provider.upload(credential, submission))
        if file_id is None:
            return batch
        log.debug("batch.uploaded", batch_id=batch.id, body_bytes=submission.input_bytes)
        uploaded = Uploaded(file_id, submission.count)
        return await self._steps.take(batch, uploaded) if await lease.renew() else None

    async def _create(
        self, batch: Batch, provider: Provider, credential: Credential, lease: HeldLease
    ) -> Batch:
        """Send the create, once its intent is durable; this is what costs.

        Sent at most once: an unclear end is noted, and its batch searched for later.
        """
        if batch.state is not BatchState.SUBMITTING:
            # Every job was cancelled, so nothing was uploaded.
            return batch
        submission = await self._submission(batch, provider)
        intent = await self._intend(batch, provider, submission.count)
        if intent is None:
            log.warning("lease.lost", name=lease.name)
            return batch
        if intent.state is not BatchState.SUBMITTING:
            # It waits for its turn.
            return intent
        if not lease.is_valid():
            # We were suspended for longer than our lease: whoever took over will
            # search, find nothing of ours, and submit. Sending now would buy it twice.
            log.warning("lease.lost", name=lease.name)
            return intent
        guarded = replace(submission, may_send=lease.unbroken())
        create = provider.create(credential, guarded, intent.input_file_id)
        try:
            # Its turn may come late. With all of its input inline it takes long as well, and
            # must outlive no lease: whoever takes over must be able to tell when nothing is
            # on its way.
            inline = intent.input_file_id is None
            answer = await lease.during(create, or_cut=inline)
        except ProviderError as exc:
            return await self._create_failed(intent, exc)
        except LeaseLostError as exc:
            return await self._create_failed(intent, ProviderUnavailableError(exc.message))
        except StoreCorruptError:
            # No batch can come of an input that broke off.
            await self._leave_unread(intent, lease)
            raise
        self._denials.end(intent.key)
        return await self._steps.created(intent, answer)

    async def _intend(self, batch: Batch, provider: Provider, count: int) -> Batch | None:
        """Make durable that the create begins, or put the batch back to wait for its turn.

        Returns the batch as it is then; nothing if another instance has changed it.
        """
        started = CreateStarted(self._ground.now(), count)
        if provider.limits(batch.key.endpoint).names_batches:
            return await self._steps.take(batch, started)
        # Two creates in doubt could not be told apart.
        async with self._ground.leases.held(f"create:{batch.key.credential}") as turn:
            if turn is None or await is_one_in_doubt(self._ground, batch.key.credential):
                return await self._steps.take(batch, PutBack(self._ground.now() + TURN_PAUSE))
            return await self._steps.take(batch, started)

    async def _create_failed(self, batch: Batch, exc: ProviderError) -> Batch:
        """Care for a failed create: only of one that was surely not bought is another sent."""
        is_unseen = exc.code == INPUT_MISSING
        if is_unseen and _may_try_again(self._unseen, batch, at_most=INPUT_TRIES):
            return await self._put_back(batch, exc)
        if isinstance(exc, ProviderRejectedError):
            return await self._rejected(batch, exc)
        if isinstance(exc, CredentialRefusedError):
            return await self._refused(batch, exc)
        if isinstance(exc, ProviderBusyError) or not exc.sent:
            return await self._put_back(batch, exc)
        log.warning("batch.unclear", batch_id=batch.id, error=str(exc))
        self._ground.tally.count("create_unclear", upstream=batch.key.upstream)
        now = self._ground.now()
        unclear = CreateUnclear(now, now + self._times.search_pause, searched=False)
        return await self._steps.take(batch, unclear) or batch

    async def _upload_failed(self, batch: Batch, exc: ProviderError) -> Batch:
        """Care for a failed upload: it cost nothing and may be done again."""
        if isinstance(exc, CredentialRefusedError):
            return await self._refused(batch, exc)
        if isinstance(exc, ProviderRejectedError):
            return await self._rejected(batch, exc)
        return await self._put_back(batch, exc)

    async def _rejected(self, batch: Batch, exc: ProviderRejectedError) -> Batch:
        """End a batch that its provider does not take. Its jobs are given back as it is settled."""
        log.warning("batch.rejected", batch_id=batch.id, code=exc.code, error=str(exc))
        if exc.code in (ProviderRejectedError.code, INPUT_MISSING):
            # Nothing is known that would cure it. An input that is not found by a 404, time and
            # again, may also be a path that is not: of a server that has files and no batches.
            await self._denials.note(batch.key, exc)
        line = await line_to_blame(self._ground, batch, exc.line)
        rejected = Rejected(self._ground.now(), exc.code, exc.message, line)
        return await self._steps.take(batch, rejected) or batch

    async def _refused(self, batch: Batch, exc: CredentialRefusedError) -> Batch:
        """Pause the credential; one that is let in again and again may do all but batches."""
        await self._access.pause(batch.key.credential, exc)
        if not blames_money(exc.body):
            await self._denials.note(batch.key, exc)
        return await self._put_back(batch, exc)

    async def _put_back(self, batch: Batch, exc: ProviderError) -> Batch:
        """Have the batch sent again: when the provider asks for it, and at once only where a job
        was cancelled.

        But no later than its jobs must go another way.
        """
        log.warning("batch.put_back", batch_id=batch.id, code=exc.code, error=str(exc))
        pause = max(exc.retry_after or timedelta(), RETRY_PAUSE)
        if exc.code != INPUT_CHANGED:
            self._ground.troubles.note(batch.key.upstream, exc, at=self._ground.now())
        elif _may_try_again(self._changed, batch, at_most=CHANGED_TRIES):
            # Its provider is in no trouble: the other jobs need not wait for what one caller did.
            pause = timedelta()
        return await self._steps.take(batch, self._after(pause, batch)) or batch

    def _after(self, pause: timedelta, batch: Batch) -> PutBack:
        now, end = self._ground.now(), self._outlook.cancel_at(batch)
        if end is not None and end < now + pause:
            # Then it is given up, without asking. Its jobs must not wait any longer than that; and
            # before they go at full price, a provider that asked for hours is asked half-way.
            left = max(end - now, timedelta())
            pause = left / 2 if left > 2 * RETRY_PAUSE else left
        return PutBack(now + pause)

    async def _leave_unread(self, batch: Batch, lease: HeldLease) -> None:
        """Have a batch sent later of which a call cannot be read, and in the end without it."""
        if not _may_try_again(self._unread, batch, at_most=UNREAD_TRIES):
            await lease.during(release_unread(self._ground, batch, may_go_on=lease.is_valid))
        await self._steps.take(batch, self._after(RETRY_PAUSE, batch))

    async def _submission(self, batch: Batch, provider: Provider) -> Submission:
        return await describe(self._ground.batches, batch, provider, now=self._ground.now())


def _may_try_again(tries: dict[BatchId, int], batch: Batch, *, at_most: int) -> bool:
    """Count one more try that failed; return whether there may be another, or begin anew."""
    count = tries.pop(batch.id, 0) + 1
    if count < at_most:
        keep_in_mind(tries, batch.id, count)
    return count < at_most


def _group(batch: Batch) -> str:
    """Return the group that takes turns: searches read long lists and must not hold up the rest."""
    kind = "create" if batch.create_started_at is None else "search"
    return f"{batch.key.upstream} {kind}"
