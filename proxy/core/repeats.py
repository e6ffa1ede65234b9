"""Which call repeats which: SDKs retry, while identical calls are often meant to be several.

No SDK sends an idempotency key, all of them retry, and the same prompt is often
wanted n times. So a body's hash alone decides nothing. A repeat *claims* one
job, one to one: the job of an equal call whose connection broke before its
answer was out. A call that names itself a retry may reach further.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol

from proxy.core.ids import JobId, OwnerId


class Digest(Protocol):
    """A hash that more can be added to."""

    def copy(self) -> "Digest":
        """Return another one that has come as far."""
        ...

    def update(self, data: bytes, /) -> None:
        """Add some bytes."""
        ...

    def hexdigest(self) -> str:
        """Return the hash of all that was added."""
        ...


CLAIM_WINDOW: Final = timedelta(minutes=10)
"""How long a self-declared retry may claim a job that seems to be cared for.

Longer than the longest default timeout of an SDK (600 s), after which it retries.
"""

WAITER_LEASE: Final = timedelta(seconds=30)
"""How long a waiter counts as alive without a sign of life.

It is a lease in the store and not kept in a process, so that another instance, or the next process
after a crash, can tell.
"""


class Answered(StrEnum):
    """How far the answer to the call that made or claimed a job has come."""

    WAITING = "waiting"
    BROKEN = "broken"
    """The connection was gone before the answer was flushed."""

    FLUSHED = "flushed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Who waits for the answer about a job, as of the last call that made or claimed it."""

    job_id: JobId
    owner: OwnerId
    fingerprint: str
    state: Answered
    waiter_until: datetime
    retry_count: int
    claimed_at: datetime


def begun_fingerprint(
    *, owner: OwnerId, upstream: str, target: str, headers: Iterable[tuple[str, str]]
) -> Digest:
    """Return what calls with the same head share of their fingerprints: see `with_body`.

    `target` comes without credentials; `headers` are those that change the
    answer or the bill: batch-wide ones, organisation, project.
    """
    digest = hashlib.sha256()
    parts = [owner, upstream, target]
    for name, value in sorted(headers):
        parts += (name, value)
    for part in parts:
        # Half a surrogate pair stands for a byte that is no UTF-8, or is a caller's own.
        encoded = part.encode("utf-8", "surrogatepass")
        # Length first: no two lists of parts may read the same when joined.
        digest.update(len(encoded).to_bytes(8) + encoded)
    return digest


def with_body(begun: Digest, body: bytes) -> str:
    """Return what two calls share exactly if one may be the repeat of the other."""
    digest = begun.copy()
    digest.update(body)
    return digest.hexdigest()


ClaimRank = tuple[int, int]
"""How well a repeat may claim a job: by the tries that it has seen, then by its state."""


def claim_rank(delivery: Delivery, *, retry_count: int, now: datetime) -> ClaimRank | None:
    """Return how well a repeat may claim this job, lower being better; or not at all.

    Among equals the oldest is claimed first. `retry_count` is what the call says
    of itself (`x-stainless-retry-count`), 0 if it says nothing.
    """
    abandoned = delivery.state is Answered.WAITING and delivery.waiter_until <= now
    if delivery.state is Answered.BROKEN or abandoned:
        return 0, 0
    later_try = retry_count > delivery.retry_count
    if not later_try or now - delivery.claimed_at > CLAIM_WINDOW:
        return None
    # After a crash the second tries of some identical calls meet the third tries of others. If a
    # try took the job that another try had taken, even one answered already, a third one's would be
    # left to nobody.
    tries = 1 + delivery.retry_count
    # If one of two identical calls was flushed and one is still held, a retry more likely repeats
    # the flushed one: the other's connection is known to live.
    return tries, int(delivery.state is Answered.WAITING)


def claimed(delivery: Delivery, *, retry_count: int, now: datetime) -> Delivery:
    """Return `delivery` after a repeat took it over."""
    return replace(
        delivery,
        state=Answered.WAITING,
        waiter_until=now + WAITER_LEASE,
        retry_count=max(retry_count, delivery.retry_count),
        claimed_at=now,
    )


def run_key(run: str, call_fingerprint: str, occurrence: int) -> str:
    """Return the idempotency key of the n-th occurrence of a call within a run."""
    return f"run:{run}:{call_fingerprint}:{occurrence}"
