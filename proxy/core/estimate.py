"""When a pending job will probably have ended, judging by the facts that chose its lane."""

from datetime import datetime, timedelta
from typing import Final, assert_never

from proxy.core.batch import Batch
from proxy.core.choice import LaneFacts
from proxy.core.job import Job, JobState
from proxy.core.lanes import Lane

LINGER: Final = timedelta(minutes=1)
"""How long a job usually waits for company before its batch goes."""

FLEX_USUAL: Final = timedelta(minutes=2)
"""How long a call of the discount tier mostly takes; its bound is far longer."""

USUAL: Final = LaneFacts(has_batch=True)
"""What is true of most upstreams, where nobody has looked."""


def completion_at(
    job: Job, facts: LaneFacts = USUAL, *, batch: Batch | None = None, now: datetime
) -> datetime | None:
    """Return when the job will probably have ended; nothing if that is not known.

    The median of what is left, given how long it has been under way: a batch that is not over after
    an hour will hardly be so within the next minute. Never later than the deadline, for which it
    would be stopped. Nothing for a job that has ended, and for one that is past its deadline.
    """
    if job.state.is_terminal or now > job.deadline:
        return None
    return min(_expected(job, facts, batch, now), job.deadline)


def _expected(job: Job, facts: LaneFacts, batch: Batch | None, now: datetime) -> datetime:
    ready = max(now, job.not_before or now)
    if job.state is JobState.ESCALATING:
        return now + (FLEX_USUAL if job.lane is Lane.FLEX else facts.times.call)
    match job.lane:
        case Lane.INTERACTIVE:
            return ready + facts.times.call + facts.times.calls(facts.calls_waiting)
        case Lane.FLEX:
            return ready + FLEX_USUAL
        case Lane.TRICKLE:
            begins = max(ready, facts.trickle_from or ready)
            return begins + timedelta(seconds=facts.trickle_s) + facts.times.call
        case Lane.BATCH:
            begun = batch.submitted_at if batch is not None and batch.id == job.batch_id else None
            begun = begun or job.ready_at + LINGER
            age = max(now - begun, timedelta(0))
            return begun + facts.turnaround.quantile(0.5, after=age)
        case _:  # pragma: no cover
            assert_never(job.lane)
