"""What an answer to a direct call says about others than its job."""

from datetime import datetime, timedelta
from typing import Final

from proxy.core.errors import CredentialRefusedError
from proxy.core.job import Job
from proxy.core.lanes import BatchKey, Lane
from proxy.core.outcomes import FULL, LONGEST_BACKOFF, Answer, Verdict
from proxy.core.turnaround import Answered
from proxy.ports.jobs import Credential
from proxy.services.access import Access
from proxy.services.direct.call import CallAnswer
from proxy.services.ground import Ground
from proxy.services.outlook import Outlook
from proxy.services.pauses import Backoff, Pauses

BUSY: Final = Backoff(
    first=timedelta(seconds=2), longest=timedelta(minutes=1), in_a_row=LONGEST_BACKOFF
)
"""How long to pause once a provider says that it is called too often, if it asks for no pause:
a deadline may be near, and limits mostly hold for a minute.

Such a limit counts all calls of an account, those that somebody waits for included. Jobs that
came again and again would use up what the provider still answers.
"""


class Lessons:
    """Learns whether a credential is good, the discount tier has room, a provider is busy."""

    def __init__(self, ground: Ground, *, access: Access, outlook: Outlook) -> None:
        self._ground = ground
        self._access = access
        self._outlook = outlook
        self._busy: Pauses[BatchKey] = Pauses(BUSY)
        """By batch key, since a limit is one of an account and a model."""

    def may_call(self, key: BatchKey, now: datetime) -> bool:
        """Return whether a call of this key is worth a try now."""
        return self._outlook.may_call(key) and not self._busy.is_on(key, now)

    async def note_credential(self, credential: Credential, answer: CallAnswer) -> None:
        """Note that an answer proves a credential good, or pause one that is refused.

        Raises:
            StoreError: if it cannot be noted; it may be tried again.
        """
        meaning = answer.answer.verdict
        if meaning is Verdict.SUCCESS:
            if credential.succeeded_at is None:
                await self._ground.credentials.accepted(credential.id, at=self._ground.now())
        elif meaning is Verdict.CREDENTIAL:
            refusal = CredentialRefusedError(
                f"a direct call was refused with {answer.answer.status}",
                status_code=answer.answer.status,
                body=answer.result.body,
            )
            await self._access.pause(credential.id, refusal)

    def note_answer(self, job: Job, answer: CallAnswer, *, took: timedelta) -> None:
        """Note what an answer says about the calls that are like this one."""
        now = self._ground.now()
        meaning = answer.answer.verdict
        if job.lane is Lane.FLEX:
            # What is said of the account says nothing of the tier.
            if meaning is not Verdict.CREDENTIAL:
                self._note_tier(job.key, answer.answer, now, took=took)
        elif meaning is Verdict.BUSY:
            # A provider that asks for a day must not make its jobs miss their deadlines.
            asked = min(answer.retry_after or timedelta(), LONGEST_BACKOFF)
            self._busy.refused(job.key, now, asked=asked)
        else:
            self._busy.end(job.key)

    def _note_tier(self, key: BatchKey, answer: Answer, now: datetime, *, took: timedelta) -> None:
        """Learn whether the discount tier is one, and has room."""
        flex = self._outlook.flex
        if answer.has_succeeded:
            flex.answered(key, answer.tier, now=now)
            self._outlook.experience.observe(Answered(key.upstream, took))
        elif answer.status in FULL:
            flex.full(key, now=now)
            self._ground.tally.count("flex_full", upstream=key.upstream)
        elif answer.refuses_the_tier:
            flex.unsupported(key, now=now)
