"""Durable jobs, their payloads and results, and who waits for them.

Stores know versions, indexes and leases, but no transitions: what a job becomes
is decided in `proxy.core.job`, and a store writes it if nobody was faster.

Every method raises `StoreUnavailableError` if the store does not answer and
`StoreCorruptError` if what it holds cannot be read. A cancelled call leaves the
store either as it was or as the call would have left it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from proxy.core.errors import StoreCorruptError
from proxy.core.ids import CredentialId, JobId, OwnerId
from proxy.core.job import Job, JobState
from proxy.core.lanes import BatchKey
from proxy.core.ledger import Booking


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What calls of one owner at one upstream are made and billed with."""

    id: CredentialId
    owner: OwnerId
    upstream: str
    headers: tuple[tuple[str, str], ...]
    """Sealed at rest. Never logged, never shown."""

    succeeded_at: datetime | None = None
    """When the upstream last accepted it."""

    paused_at: datetime | None = None
    """Since when its lane is paused."""

    pause_status: int | None = None
    pause_body: bytes | None = None
    """The provider's own refusal, for the jobs that end with it."""

    def __repr__(self) -> str:
        return f"Credential(id={self.id!r}, upstream={self.upstream!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to be accepted, with everything that becomes durable with it."""

    job: Job
    body: bytes
    """The line's body, as it will be submitted."""

    retry_count: int
    """What the accepted call said of itself, for later repeats."""

    waiter_until: datetime
    idempotency_key: str | None = None
    """Already hashed; scoped by the job's owner."""

    credential: Credential | None = None
    """What its calls are made with. Kept before the job is, as by `CredentialStore.remember`:
    without it the job could never run."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The job that now stands for the call."""

    job: Job
    created: bool
    """False if the idempotency key knew it already; then nothing was written."""


class Result(NamedTuple):
    """What the provider answered, exactly."""

    status_code: int
    body: bytes
    content_type: str = "application/json"
    request_id: str | None = None


class JobWrite(NamedTuple):
    """A job as it shall be from now on, and its result if it ended with one."""

    after: Job
    result: Result | None = None
    bookings: tuple[Booking, ...] = ()
    """What goes into the ledger if, and only if, this is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which of an owner's jobs to list. All conditions must hold."""

    states: frozenset[JobState] | None = None
    tag: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class UnreadJob:
    """A job in a list that cannot be read: it is damaged, or a newer version wrote it."""

    id: JobId
    why: StoreCorruptError


@dataclass(frozen=True, slots=True)
class Pending:
    """How much of somebody's is not terminal yet."""

    jobs: int
    body_bytes: int


class JobStore(Protocol):
    """Durable jobs."""

    async def accept(self, new: NewJob) -> Acceptance:
        """Make a new job durable, queued under its key, before returning.

        If the owner's idempotency key is known, the job that it stands for is
        returned instead and nothing is written; whether the call is the same is
        for the caller to compare.
        """
        ...

    async def find_keyed(self, owner: OwnerId, idempotency_key: str) -> Job | None:
        """Return the job that the owner's key, hashed as in `NewJob`, stands for; or nothing."""
        ...

    async def get(self, job_id: JobId) -> Job:
        """Return the job as it is now.

        A queued record that a batch has claimed is returned as `BATCHED`, with
        the batch, the attempt of the claim, and a version raised by one.

        Raises:
            JobNotFoundError: if there is none.
        """
        ...

    async def get_many(self, job_ids: Sequence[JobId]) -> Sequence[Job]:
        """Return those of the jobs that exist, in the order asked for."""
        ...

    async def replace_many(self, writes: Sequence[JobWrite]) -> frozenset[JobId]:
        """Write each job whose version, as `get` reports it, is one less.

        All are written at one moment, with their results and bookings. A job that is written
        as `QUEUED` is queued under its key from `not_before` on; one written in
        any other state leaves the queue. A `CANCELLED` job's payload is erased, and
        no repeat claims it any more. The end of a job whose call named a webhook makes
        a notice (`proxy.ports.notices`). What is written with a result has ended, and differs
        from the job as it was in the fields of `ENDED` alone. A job that has ended changes no
        more, and a store may refuse to write it.

        Give each job once, and about 100 of them: that holds the store for some
        milliseconds, in which nobody else writes.

        Returns the IDs that were refused, because someone else had changed them
        or they are gone. A refusal is a lost race and not an error.
        """
        ...

    async def body(self, job_id: JobId) -> bytes:
        """Return the body of the job's call.

        Raises:
            JobNotFoundError: if the job or its payload is gone.
        """
        ...

    async def result(self, job_id: JobId) -> Result | None:
        """Return the job's result, or nothing if it has none (yet, or any more)."""
        ...

    async def list_jobs(
        self, owner: OwnerId, where: JobFilter, *, after: JobId | None, limit: int
    ) -> Sequence[Job | UnreadJob]:
        """Return up to `limit` jobs of `owner`, newest first, older than `after`.

        One that cannot be read stands in its place, also where it is not known to be in one
        of the states that are asked for.

        Raises:
            JobNotFoundError: if `after` is not a job of the owner, or is gone.
        """
        ...

    async def erase(self, job_id: JobId) -> None:
        """Erase payload, result and everything that `get` and `list_jobs` would show.

        The job must be terminal. What its batch needs to be settled stays: ID,
        batch, attempt and owner, until that batch is settled.
        """
        ...

    async def pending(self, owners: Sequence[OwnerId] | None = None) -> Mapping[OwnerId, Pending]:
        """Return what is not terminal, for `owners` or for all who have any."""
        ...

    async def prune(self, *, finalized_before: datetime, limit: int) -> int:
        """Erase up to `limit` jobs that ended before; return how many."""
        ...


class QueueStore(Protocol):
    """Jobs that wait to be called directly: one by one, not by batch.

    One that cannot be read is left out, and told of in the log: it must not hold up others.
    """

    async def take(self, key: BatchKey, *, ready_at: datetime, limit: int) -> Sequence[Job]:
        """Return up to `limit` queued jobs of `key`, ready by `ready_at`, nearest deadline first.

        Takes nothing away: whoever wants one escalates it, and the faster one wins.
        """
        ...

    async def due(self, key: BatchKey, *, before: datetime, limit: int) -> Sequence[Job]:
        """Return up to `limit` queued jobs of `key` with a deadline before, nearest first."""
        ...

    async def escalating(self, *, limit: int) -> Sequence[Job]:
        """Return up to `limit` jobs that are being called directly, by anyone."""
        ...


@dataclass(frozen=True, slots=True)
class DeliveryNote:
    """What became of the answer to a call that made or claimed a job."""

    job_id: JobId
    flushed: bool
    retry_count: int
    """Which try of the call it was."""


class DeliveryStore(Protocol):
    """Who waits for the answer about a job, so that repeats can claim it.

    The rule is `proxy.core.repeats.claim_rank`; a store applies it atomically.
    """

    async def claim(
        self, owner: OwnerId, fingerprint: str, *, retry_count: int, now: datetime
    ) -> JobId | None:
        """Claim the best and then oldest claimable job of an equal call, for one repeat.

        At most one of two simultaneous repeats gets the same job.
        """
        ...

    async def renew(self, job_ids: Sequence[JobId], *, until: datetime) -> None:
        """Extend the leases of waiters that are still there."""
        ...

    async def finish(self, notes: Sequence[DeliveryNote]) -> None:
        """Note whether answers were flushed, or their connections broke before.

        One is ignored if a call with a higher retry count has claimed the job since.
        Give some hundred at most.
        """
        ...

    async def claimable_owners(self, *, now: datetime) -> frozenset[OwnerId]:
        """Return whose jobs a call without a retry count could claim."""
        ...


class CredentialStore(Protocol):
    """Sealed credentials, and whose lanes are paused."""

    async def remember(self, credential: Credential) -> None:
        """Keep a credential that is new; leave one that is known as it is."""
        ...

    async def get(self, credential_id: CredentialId) -> Credential | None:
        """Return the credential, if it is known.

        Raises:
            StoreCorruptError: if it is damaged, or sealed with a key that is not here.
        """
        ...

    async def of_owner(self, owner: OwnerId, upstream: str) -> Sequence[Credential]:
        """Return those of the owner at `upstream` that can be read, newest success first."""
        ...

    async def all(self) -> Sequence[Credential]:
        """Return every credential that can be read: `get` tells of the others."""
        ...

    async def accepted(self, credential_id: CredentialId, *, at: datetime) -> None:
        """Note that the upstream accepted it, and lift a pause."""
        ...

    async def pause(
        self, credential_id: CredentialId, *, at: datetime, status: int | None, body: bytes | None
    ) -> None:
        """Pause its lane. A pause that stands already keeps its time."""
        ...

    async def forget_unused(self, *, limit: int) -> int:
        """Erase up to `limit` credentials that nothing needs, and needed at the last call.

        A pending job and an open batch need all of their owner's credentials at that
        upstream. One that was remembered since the last call stays for one call more:
        the job that it was remembered for may be just on its way.
        """
        ...
