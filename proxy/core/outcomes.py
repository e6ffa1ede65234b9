"""What a provider's answer means for its job.

One place decides what is final, what is tried again and what is nobody's fault,
for lines of a batch and for direct calls alike. What a batch left without an answer
is decided in `core/batch_ends.py`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from proxy.core.choice import LaneFacts, choose_lane
from proxy.core.errors import CREDENTIAL_CODES, CREDENTIAL_STATUSES
from proxy.core.job import Failed, Job, Outcome, Released, Succeeded
from proxy.core.lanes import CALL_LANES, Lane, LaneChoice
from proxy.core.refusals import OF_THE_CALL, error_code, error_in
from proxy.core.usage import tier_of, usage_of


class Verdict(Enum):
    """Whose move it is after an answer."""

    SUCCESS = "success"
    TRANSIENT = "transient"
    """The same call may succeed later."""

    BUSY = "busy"
    """Refused for now, at no cost and through no fault of the call."""

    CREDENTIAL = "credential"
    """The account is at fault: its lane pauses, the job waits."""

    PERMANENT = "permanent"
    """The call itself is at fault; its caller gets the answer as it is."""


# 409 and 425 are the provider's own races; 499 is Google's for an operation that its
# backend cancelled (google-gemini/gemini-cli #20309); 0 is a line without a status, which
# has been reported for lines that were never run.
_TRANSIENT: Final = frozenset({0, 408, 409, 425, 499})

_BUSY: Final = frozenset({429, 498})
"""498 is Groq's `capacity_exceeded`."""


def verdict(status: int, error_code: str | None) -> Verdict:
    """Return what an answer with this status and error code means."""
    if 200 <= status < 300:
        return Verdict.SUCCESS
    if error_code in OF_THE_CALL and status < 500:
        return Verdict.PERMANENT
    if status in CREDENTIAL_STATUSES or error_code in CREDENTIAL_CODES:
        return Verdict.CREDENTIAL
    if status in _BUSY:
        return Verdict.BUSY
    if status >= 500 or status in _TRANSIENT:
        return Verdict.TRANSIENT
    return Verdict.PERMANENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a provider answered to one attempt of a job."""

    status: int
    content: object
    """The body as JSON, or nothing if it is none."""

    service_tier: str | None = None
    """The tier that was used, where that stands in a header."""

    @property
    def verdict(self) -> Verdict:
        """Whose move it is now."""
        return verdict(self.status, self.error_code)

    @property
    def has_succeeded(self) -> bool:
        """Whether the caller got what it asked for; `verdict` calls the same a success."""
        return 200 <= self.status < 300

    @property
    def error_code(self) -> str | None:
        """The provider's code or type of the error, if the body has one."""
        return error_code(error_in(self.content))

    @property
    def reason(self) -> str:
        """Status and code, as the reason of a release."""
        return f"{self.status} {self.error_code or ''}".strip()

    def outcome(self) -> Outcome:
        """Return what stays on the record of a job that ends with this."""
        content = self.content if isinstance(self.content, dict) else {}
        message = None
        if self.status >= 400:
            message = f"the provider answered {self.status}"
        return Outcome(self.status, self.error_code, message, usage_of(content), tier=self.tier)

    @property
    def tier(self) -> str | None:
        """The service tier that was used, if the provider says."""
        if self.service_tier is not None:
            return self.service_tier
        return tier_of(self.content) if isinstance(self.content, dict) else None

    @property
    def refuses_the_tier(self) -> bool:
        """Whether an error is about the tier that was asked for, and not about the call."""
        error = error_in(self.content)
        return self.status in {400, 404, 422} and any(
            word in json.dumps(error).lower() for word in ("service_tier", "servicetier", "flex")
        )


MAX_BATCH_FAILURES: Final = 3
"""After so many transient errors in batches a job is called directly."""

MAX_FAILURES: Final = 7
"""After so many transient errors in all a job ends with the last of them."""

FULL: Final = frozenset({429, 503})
"""With these the discount tier says "not now", and charges nothing."""

FULL_PAUSE: Final = timedelta(minutes=1)
"""How long a job that the discount tier refused waits where no other lane is cheap."""

ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
"""Longest answer that is read, in bytes. No provider's comes near it, but that to a call for many
large images; it keeps what never ends out of our memory."""

ANSWER_TOO_LONG: Final = "answer_too_long"
"""Error code of a job that failed by an answer longer than that."""

_BACKOFF: Final = timedelta(seconds=2)
LONGEST_BACKOFF: Final = timedelta(minutes=5)


def after_answer(
    job: Job,
    attempt: int,
    answer: Answer,
    *,
    facts: Callable[[], LaneFacts],
    now: datetime,
    retry_after: timedelta | None = None,
) -> Succeeded | Failed | Released:
    """Return what an answer makes of `job`. It asks for `facts` if there is to be another."""
    if answer.has_succeeded:
        return Succeeded(attempt, now, answer.outcome())
    meaning = answer.verdict
    if (
        job.lane is Lane.FLEX
        # An account that may spend nothing is refused with the status of a full tier.
        and meaning is not Verdict.CREDENTIAL
        and (answer.status in FULL or meaning in (Verdict.BUSY, Verdict.PERMANENT))
    ):
        return _not_in_flex(
            job, attempt, answer, meaning, facts=facts(), now=now, pause=retry_after
        )
    final = meaning is Verdict.PERMANENT or (
        meaning is Verdict.TRANSIENT and job.failures + 1 >= MAX_FAILURES
    )
    if final:
        return Failed(attempt, now, answer.outcome())
    pause = backoff(job.failures + 1)
    if retry_after is not None:
        pause = max(pause, min(retry_after, LONGEST_BACKOFF))
    # A line of a batch that is refused for its rate would be refused again and
    # again; a direct call only has to come later.
    uncharged = meaning is Verdict.CREDENTIAL or (
        meaning is Verdict.BUSY and job.lane in CALL_LANES
    )
    return Released(
        attempt,
        answer.reason,
        onto=next_lane(job, facts(), now=now, failed=not uncharged),
        not_before=now + pause,
        uncharged=uncharged,
    )


def after_overlong(attempt: int, *, now: datetime) -> Failed:
    """Return the end of a job whose answer is too long to be read.

    It was paid for, most likely, and another one would be as long: none is bought.
    """
    size = f"{ANSWER_BYTES_MAX // 1024**2} MiB"
    message = f"the provider's answer is longer than {size}"
    return Failed(attempt, now, Outcome(None, ANSWER_TOO_LONG, message))


def _not_in_flex(
    job: Job,
    attempt: int,
    answer: Answer,
    meaning: Verdict,
    *,
    facts: LaneFacts,
    now: datetime,
    pause: timedelta | None,
) -> Released:
    """Return where a job goes on that the discount tier did not answer, at no cost."""
    reason = answer.reason
    if meaning is Verdict.PERMANENT and not answer.refuses_the_tier:
        # The call is at fault, or the tier in words that we do not know. An ordinary call tells
        # which, and gives its caller the answer that such a call gets.
        onto = LaneChoice(Lane.INTERACTIVE, f"the discount tier answered {reason}")
        return Released(attempt, reason, onto=onto, uncharged=True)
    onto = choose_lane(job.deadline, facts.without(Lane.FLEX), now=now)
    if meaning is Verdict.PERMANENT or onto.lane is not Lane.INTERACTIVE:
        return Released(attempt, reason, onto=onto, uncharged=True)
    wait = max(FULL_PAUSE, min(pause or FULL_PAUSE, LONGEST_BACKOFF))
    if job.deadline - now - wait <= facts.times.flex_slack:
        return Released(attempt, reason, onto=onto, uncharged=True)
    return Released(attempt, reason, not_before=now + wait, uncharged=True)


def next_lane(job: Job, facts: LaneFacts, *, now: datetime, failed: bool) -> LaneChoice:
    """Return the lane for the next attempt of a job whose last one brought nothing."""
    if job.failures + failed >= MAX_BATCH_FAILURES:
        return LaneChoice(Lane.INTERACTIVE, f"failed {job.failures + failed} times before")
    if job.lane in (Lane.INTERACTIVE, Lane.TRICKLE):
        # It left the batch lane for a reason that a failed call does not remove.
        return LaneChoice(job.lane, job.lane_reason)
    return choose_lane(job.deadline, facts, now=now)


def backoff(failures: int) -> timedelta:
    """Return the pause after the n-th failure, counted from 1; at most five minutes."""
    return min(_BACKOFF * (1 << min(failures - 1, 10)), LONGEST_BACKOFF)
