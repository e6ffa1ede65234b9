"""Why a batch ended, and what that means for the jobs that it left without a result.

The codes stand in `Batch.error_code` and `Batch.end_reason`. Some are OpenAI's own; to
the others adapters translate what their provider says.
"""

from datetime import datetime
from typing import Final

from proxy.core.batch import Batch
from proxy.core.choice import LaneFacts
from proxy.core.errors import CREDENTIAL_CODES
from proxy.core.job import Job, Released
from proxy.core.lanes import Lane, LaneChoice, cancel_at
from proxy.core.outcomes import next_lane
from proxy.core.refusals import MODEL_UNKNOWN

UNSUPPORTED_MODEL: Final = "unsupported_model"
"""Refused for a model that is only called, and not batched."""

UNBATCHABLE_CODES: Final = frozenset({MODEL_UNKNOWN, UNSUPPORTED_MODEL})
"""Refused for its model: each of its jobs has to be called directly."""

TOO_MANY_TOKENS: Final = "token_limit_exceeded"
"""Refused for the tokens under way: its jobs only have to wait."""

INVALID_INPUT: Final = "invalid_input"
"""Refused for one of its lines, which may not be named."""

TOO_LARGE: Final = "input_too_large"
"""Refused for its size: its jobs make smaller batches."""

INPUT_CHANGED: Final = "input_changed"
"""Nothing came of an upload or a create: of what was on its way a job was cancelled."""

INPUT_MISSING: Final = "input_missing"
"""Its create was refused because the uploaded input is not yet visible everywhere at the provider,
or gone."""

EMPTY: Final = "empty"
"""Not sent: every job of it was cancelled."""

TOO_LATE: Final = "too late for a batch"
"""Dissolved: what it would leave open could not be called directly in time."""

_BY_ITSELF: Final = frozenset({"completed", "ended", "success", "succeeded"})
"""The last word of what providers call a batch that they did not fail, and that nobody stopped:
OpenAI's family, Anthropic, Mistral, and Gemini (`PARTIALLY_SUCCEEDED` too)."""

ANOTHERS: Final = "another's batch"
"""Disowned: its results carry no name of ours, so it bought us nothing."""

UNCONFIRMED: Final = "unconfirmed"
"""Disowned: it did not show in time whose it is, so it may be ours."""

OF_SOME_LINE: Final = frozenset({INVALID_INPUT, TOO_LARGE})
"""Where it had a single job, that one is at fault."""

NEVER_RUN_CODES: Final = frozenset({"batch_expired", "batch_cancelled", "expired", "cancelled"})
"""A line, or a whole batch, was not run, through no fault of its own."""

CLIENT_FAULTS: Final = frozenset({"batch_client_error", "invalid_request_error"})
"""A line never ran and never will: the request itself is at fault.

Together and OpenRouter name no more than that; called directly, such a job gets the
answer in the provider's own words.
"""

_EXPLAINED: Final = (
    CREDENTIAL_CODES | NEVER_RUN_CODES | UNBATCHABLE_CODES | {EMPTY, TOO_MANY_TOKENS}
)

BY_CLIENT_FAULT: Final = LaneChoice(Lane.INTERACTIVE, "the provider refused its line as it is")
_BY_TIME: Final = LaneChoice(Lane.INTERACTIVE, "the deadline is too near for a batch so large")
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


def is_unexplained(batch: Batch) -> bool:
    """Return whether a batch was refused as a whole, with neither a cure nor a line at fault known.

    Most often it is some line: validation stops at the first, and not every provider names it.
    """
    return (
        batch.error_code is not None
        and batch.error_line is None
        and batch.error_code not in _EXPLAINED
    )


def ran_to_its_end(batch: Batch) -> bool:
    """Return whether a batch came to its end by itself: then it tells how long one takes."""
    word = (batch.end_reason or "").lower().rpartition("_")[2]
    # Anthropic calls a batch that was cancelled `ended` as well.
    return word in _BY_ITSELF and batch.cancelled_at is None
