"""What an answer of a provider means for the job that it is for.

One place decides what is final, what is tried again and what is nobody's fault,
for lines of a batch and for direct calls alike.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from proxy.core.batch import Batch
from proxy.core.choice import LaneFacts, choose_lane
from proxy.core.errors import CREDENTIAL_CODES, CREDENTIAL_STATUSES
from proxy.core.job import Failed, Job, Outcome, Released, Succeeded
from proxy.core.lanes import CALL_LANES, Lane, LaneChoice, cancel_at
from proxy.core.refusals import MODEL_UNKNOWN, OF_THE_CALL, error_code
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
    def has_succeeded(self) -> bool:
        """Whether the caller got what it asked for; `verdict` calls the same a success."""
        return 200 <= self.status < 300

    @property
    def error_code(self) -> str | None:
        """The provider's code or type of the error, if the body has one."""
        return error_code(self.content.get("error")) if isinstance(self.content, dict) else None

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
        error = self.content.get("error") if isinstance(self.content, dict) else None
        return self.status in {400, 404, 422} and any(
            word in json.dumps(error).lower() for word in ("service_tier", "servicetier", "flex")
        )


MAX_BATCH_FAILURES: Final = 3
"""After so many transient errors in batches a job is called directly."""

MAX_FAILURES: Final = 7
"""After so many transient errors in all a job ends with the last of them."""

_BACKOFF: Final = timedelta(seconds=2)
_LONGEST_BACKOFF: Final = timedelta(minutes=5)


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
    meaning = verdict(answer.status, answer.error_code)
    if job.lane is Lane.FLEX and (
        answer.status in FULL or meaning in (Verdict.BUSY, Verdict.PERMANENT)
    ):
        pause = retry_after
        return _not_in_flex(job, attempt, answer, meaning, facts=facts(), now=now, pause=pause)
    final = meaning is Verdict.PERMANENT or (
        meaning is Verdict.TRANSIENT and job.failures + 1 >= MAX_FAILURES
    )
    if final:
        return Failed(attempt, now, answer.outcome())
    pause = backoff(job.failures + 1)
    if retry_after is not None:
        pause = max(pause, min(retry_after, _LONGEST_BACKOFF))
    # A line of a batch that is refused for its rate would be refused again and
    # again; a direct call only has to come later.
    uncharged = meaning is Verdict.CREDENTIAL or (
        meaning is Verdict.BUSY and job.lane in CALL_LANES
    )
    return Released(
        attempt,
        f"{answer.status} {answer.error_code or ''}".strip(),
        onto=next_lane(job, facts(), now=now, failed=not uncharged),
        not_before=now + pause,
        uncharged=uncharged,
    )


FULL: Final = frozenset({429, 503})
"""With these the discount tier says "not now", and charges nothing."""

FULL_PAUSE: Final = timedelta(minutes=1)
"""How long a job that the discount tier refused waits where no other lane is cheap."""


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
    reason = f"{answer.status} {answer.error_code or ''}".strip()
    if meaning is Verdict.PERMANENT and not answer.refuses_the_tier:
        # At fault is the call, or the tier in words that we do not know. An ordinary
        # call tells, and gives its caller the answer that an ordinary call gets.
        onto = LaneChoice(Lane.INTERACTIVE, f"the discount tier answered {reason}")
        return Released(attempt, reason, onto=onto, uncharged=True)
    onto = choose_lane(job.deadline, facts.without(Lane.FLEX), now=now)
    if meaning is Verdict.PERMANENT or onto.lane is not Lane.INTERACTIVE:
        return Released(attempt, reason, onto=onto, uncharged=True)
    wait = max(FULL_PAUSE, min(pause or FULL_PAUSE, _LONGEST_BACKOFF))
    if job.deadline - now - wait <= facts.times.flex_slack:
        return Released(attempt, reason, onto=onto, uncharged=True)
    return Released(attempt, reason, not_before=now + wait, uncharged=True)


UNBATCHABLE_CODES: Final = frozenset({MODEL_UNKNOWN, "unsupported_model"})
"""Why a whole batch is refused of which every job must be called directly."""

TOO_MANY_TOKENS: Final = "token_limit_exceeded"
"""Why a whole batch is refused of which every job only has to wait."""

INVALID_INPUT: Final = "invalid_input"
"""Why a whole batch is refused for the sake of some line, which may not be named."""

TOO_LARGE: Final = "input_too_large"
"""Why a whole batch is refused whose jobs make smaller ones."""

EMPTY: Final = "empty"
"""Why a batch is not sent of which every job was cancelled."""

INPUT_MISSING: Final = "input_missing"
"""Why a create is refused whose input is uploaded: not everywhere at the provider yet, or gone."""

OF_SOME_LINE: Final = frozenset({INVALID_INPUT, TOO_LARGE})
"""Codes by which a batch of a single job was refused for its sake."""

NEVER_RUN_CODES: Final = frozenset({"batch_expired", "batch_cancelled", "expired", "cancelled"})
"""Why a line, or a whole batch, was not executed through no fault of its own."""

TOO_LATE: Final = "too late for a batch"
"""Why a batch is dissolved whose remainder could not be called directly in time."""

ANOTHERS: Final = "another's batch"
"""Why a batch is disowned whose results carry no name of ours: it bought us nothing."""

UNCONFIRMED: Final = "unconfirmed"
"""Why a batch is disowned that did not tell in time whose it is: it may be ours."""

_BY_TIME: Final = LaneChoice(Lane.INTERACTIVE, "the deadline is too near for a batch so large")
CLIENT_FAULTS: Final = frozenset({"batch_client_error", "invalid_request_error"})
"""Codes of lines that never ran and never will: the request itself is at fault.

Together and OpenRouter name no more than that; called directly, such a job gets the
answer in the provider's own words.
"""

BY_CLIENT_FAULT: Final = LaneChoice(Lane.INTERACTIVE, "the provider refused its line as it is")

_BY_LINE: Final = LaneChoice(Lane.INTERACTIVE, "its line failed the validation of a batch")
_BY_MODEL: Final = LaneChoice(Lane.INTERACTIVE, "the provider does not batch this model")


def after_batch(
    job: Job, attempt: int, batch: Batch, *, is_bad_line: bool, facts: LaneFacts, now: datetime
) -> Released:
    """Return what becomes of a job that its ended batch left without a result.

    A batch that was refused as a whole bought nothing. One that ran and is silent
    about a job may have computed it: nobody can tell, so it is counted.
    """
    reason = batch.error_code or batch.end_reason or "no result"
    if is_bad_line:
        return Released(attempt, reason, onto=_BY_LINE)
    if batch.error_code in UNBATCHABLE_CODES:
        return Released(attempt, reason, onto=_BY_MODEL, uncharged=True)
    if batch.end_reason == TOO_LATE and now >= cancel_at(job.deadline, batch.count, facts.times):
        # Only the jobs because of which it was too late: with them, the next batch
        # would be too late again; without them, the others make one.
        return Released(attempt, reason, onto=_BY_TIME, uncharged=True)
    # A refusal that is not understood must not send the same jobs round forever.
    fault = _is_silent(batch) or is_unexplained(batch)
    return Released(
        attempt,
        reason,
        onto=next_lane(job, facts, now=now, failed=fault),
        possible_double=may_have_run(batch),
        uncharged=not fault,
    )


def may_have_run(batch: Batch) -> bool:
    """Return whether an ended batch may have computed answers that are not in its results."""
    return _is_silent(batch) or batch.end_reason == UNCONFIRMED


def _is_silent(batch: Batch) -> bool:
    return batch.provider_batch_id is not None and batch.error_code is None


_EXPLAINED: Final = (
    CREDENTIAL_CODES | NEVER_RUN_CODES | UNBATCHABLE_CODES | {EMPTY, TOO_MANY_TOKENS}
)


def is_unexplained(batch: Batch) -> bool:
    """Return whether a batch was refused as a whole, and neither cure nor line is known.

    Most often it is some line: validation stops at the first, and not every provider names it.
    """
    return (
        batch.error_code is not None
        and batch.error_line is None
        and batch.error_code not in _EXPLAINED
    )


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
    return min(_BACKOFF * (1 << min(failures - 1, 10)), _LONGEST_BACKOFF)
