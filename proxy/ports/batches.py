"""Durable batches, the slim queue that fills them, and leases.

A planner reads `heads()`, one row per batch key, and never jobs. `claim` moves
queue rows to items in chunks; `items` streams them. Job records are not touched.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from proxy.core.batch import Batch
from proxy.core.ids import BatchId, CredentialId, InstanceId, JobId
from proxy.core.lanes import BatchKey, ModelAccess
from proxy.core.plan import Head


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimLimits:
    """How much one batch may hold in all, over however many calls of `claim`."""

    max_requests: int
    max_bytes: int
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """What the batch holds after a call of `claim`."""

    count: int
    body_bytes: int
    tokens: int
    nearest_deadline: datetime | None
    complete: bool
    """Whether the queue is empty or a limit reached: another call would add nothing."""


class Item(NamedTuple):
    """One line of a batch."""

    seq: int
    """Unique within the batch; among items of the same `affinity` in their order."""

    job_id: JobId
    attempt: int
    body_bytes: int


class Line(NamedTuple):
    """One line of a batch with its body, ready to be written."""

    job_id: JobId
    attempt: int
    body: bytes


class BatchStore(Protocol):
    """Durable batches and their items."""

    async def heads(self) -> Sequence[Head]:
        """Return one row for each batch key that has queued jobs.

        One that cannot be read is left out, with its jobs, and told of in the log.
        """
        ...

    async def add(self, batch: Batch) -> None:
        """Make a new batch durable before returning."""
        ...

    async def get(self, batch_id: BatchId) -> Batch | None:
        """Return the batch, if there is one."""
        ...

    async def replace(self, after: Batch) -> bool:
        """Write the batch if its stored version is one less; return whether."""
        ...

    async def live(self) -> Sequence[Batch]:
        """Return all batches that are not settled, oldest first.

        One that cannot be read is left out, here and by `recent`, and told of in the log: it
        must not hold up others.
        """
        ...

    async def recent(self, *, limit: int) -> Sequence[Batch]:
        """Return up to `limit` batches in any state, newest first."""
        ...

    async def claim(
        self, key: BatchKey, batch_id: BatchId, limits: ClaimLimits, *, ready_at: datetime
    ) -> Claimed:
        """Move queued jobs of `key` into the batch, oldest first.

        One call moves some thousands, in steps of at most 2,000 that hold the store
        for milliseconds each. A job becomes an item with its attempt raised by one.
        Jobs that are not ready by `ready_at` stay. Repeat until `complete`; a repeat
        after a crash goes on where it stopped. A job that alone is above a limit is
        taken only into an empty batch. A batch that is not `FILLING` takes none.
        """
        ...

    async def note_size(self, key: BatchKey, *, small: bool) -> None:
        """Count a batch below the worth of one, or start counting from zero."""
        ...

    def items(self, batch_id: BatchId) -> AsyncIterator[Sequence[Item]]:
        """Stream the items that are to be bought, in the order of submission.

        That order is by `affinity`: jobs whose prompts begin alike are neighbours. A job that
        ended after the claim is left out: it was cancelled, or an earlier attempt
        answered it after all.
        """
        ...

    def lines(self, batch_id: BatchId) -> AsyncIterator[Sequence[Line]]:
        """Stream the same items in the same order, with their bodies, in chunks.

        A chunk holds at most 1,000 lines and about 1 MB.
        """
        ...

    async def issued(
        self, batch_id: BatchId, custom_ids: Sequence[tuple[JobId, int]]
    ) -> frozenset[tuple[JobId, int]]:
        """Return which of these names (job and attempt) this very batch issued."""
        ...

    def open_items(self, batch_id: BatchId) -> AsyncIterator[Sequence[Item]]:
        """Stream the same items as `items`, in any order: to count them, or to end their jobs.

        So a store need not sort them, and the first come at once.
        """
        ...

    async def lost(self) -> Sequence[BatchId]:
        """Return the batches that hold items and are not known: their records were lost.

        Only a store of several servers can lose the one without the other.
        """
        ...

    async def unread(self) -> Sequence[BatchId]:
        """Return the batches that `live` leaves out since they cannot be read."""
        ...

    async def drop_items(self, batch_id: BatchId) -> None:
        """Forget the items of a settled batch, and the tombstones that waited for it."""
        ...

    async def prune(self, *, settled_before: datetime, limit: int) -> int:
        """Erase up to `limit` batches that were settled before; return how many."""
        ...


class UnbatchableStore(Protocol):
    """Models that a provider refused in batches, remembered for a while."""

    async def note(
        self, credential_id: CredentialId, endpoint: str, model: str, *, until: datetime
    ) -> None:
        """Remember that this credential's batches of `model` are refused."""
        ...

    async def known(self, *, now: datetime) -> Mapping[ModelAccess, datetime]:
        """Return what is remembered, and until when."""
        ...


class LeaseStore(Protocol):
    """Exclusive rights for a time, `LEASE_MAX` at most; what claims to last longer is over."""

    async def acquire(
        self, name: str, holder: InstanceId, *, now: datetime, until: datetime
    ) -> bool:
        """Take or renew the lease; false while another instance holds it."""
        ...

    async def release(self, name: str, holder: InstanceId) -> None:
        """Give the lease back, if `holder` has it."""
        ...

    async def holders(self, prefix: str, *, now: datetime) -> frozenset[InstanceId]:
        """Return who holds any lease whose name starts with `prefix`."""
        ...
