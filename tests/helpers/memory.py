"""All stores in memory, written to be obviously right: they look at all there is.

They pass the same contract suites as the real adapters.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import islice

from proxy.core.batch import Batch, BatchState
from proxy.core.errors import JobNotFoundError, StoreCorruptError
from proxy.core.ids import BatchId, CredentialId, JobId, OwnerId
from proxy.core.job import AnswerMode, Assigned, Job, JobState, advance
from proxy.core.lanes import BatchKey
from proxy.core.plan import Head
from proxy.core.repeats import Answered, Delivery, claim_rank, claimed
from proxy.ports.batches import Claimed, ClaimLimits, Item, Line
from proxy.ports.jobs import (
    Acceptance,
    Credential,
    DeliveryNote,
    JobFilter,
    JobWrite,
    NewJob,
    Pending,
    Result,
    UnreadJob,
)
from tests.helpers.memory_leases import MemoryLeaseStore, MemoryUnbatchableStore
from tests.helpers.memory_ledger import MemoryLedgerStore
from tests.helpers.memory_notes import MemoryNoteStore
from tests.helpers.memory_notices import MemoryNoticeStore
from tests.helpers.memory_runs import MemoryRunStore
from tests.helpers.memory_wakeups import MemoryWakeups

CLAIM_CHUNK = 2_000
LINES_CHUNK = 1_000
LINES_CHUNK_BYTES = 1_000_000


class MemoryStores:
    """All stores over one memory, named as those of `SqliteStores`."""

    def __init__(self, *, setback: timedelta = timedelta()) -> None:
        memory = _Memory()
        self.setback = setback
        self.jobs = MemoryJobStore(memory)
        self.queue = MemoryQueueStore(memory)
        self.deliveries = MemoryDeliveryStore(memory)
        self.credentials = MemoryCredentialStore(memory)
        self.batches = MemoryBatchStore(memory)
        self.unbatchable = MemoryUnbatchableStore()
        self.leases = MemoryLeaseStore()
        self.ledger = memory.ledger
        self.runs = MemoryRunStore()
        self.wakeups = MemoryWakeups()
        self.notes = MemoryNoteStore()
        self.notices = memory.notices

    async def aclose(self) -> None:
        """Do nothing: the memory goes with its last user."""


@dataclass(slots=True)
class _Memory:
    """What the stores share."""

    records: dict[JobId, Job] = field(default_factory=dict)
    pending: dict[JobId, Job] = field(default_factory=dict)
    """Those of them that are not terminal: a simulated day has many more that are."""
    bodies: dict[JobId, bytes] = field(default_factory=dict)
    damaged_bodies: set[JobId] = field(default_factory=set)
    results: dict[JobId, Result] = field(default_factory=dict)
    deliveries: dict[JobId, Delivery] = field(default_factory=dict)
    idempotency: dict[tuple[OwnerId, str], JobId] = field(default_factory=dict)
    batches: dict[BatchId, Batch] = field(default_factory=dict)
    items: dict[BatchId, list["_Claim"]] = field(default_factory=dict)
    claimed_by: dict[tuple[JobId, int], BatchId] = field(default_factory=dict)
    small: dict[BatchKey, int] = field(default_factory=dict)
    damaged_queues: set[BatchKey] = field(default_factory=set)
    credentials: dict[CredentialId, Credential] = field(default_factory=dict)
    unused: set[CredentialId] = field(default_factory=set)
    ledger: MemoryLedgerStore = field(default_factory=MemoryLedgerStore)
    notices: MemoryNoticeStore = field(default_factory=MemoryNoticeStore)

    def view(self, record: Job) -> Job:
        """Return the job as its record and its claim, if any, say together."""
        batch_id = self.claimed_by.get((record.id, record.attempt + 1))
        if batch_id is None or record.state is not JobState.QUEUED:
            return record
        return advance(record, Assigned(batch_id))

    def keep(self, record: Job) -> None:
        """Write a record."""
        self.records[record.id] = record
        if record.state.is_terminal:
            self.pending.pop(record.id, None)
        else:
            self.pending[record.id] = record

    def body(self, job_id: JobId) -> bytes:
        """Return what was accepted with a job, as long as it is kept."""
        if job_id in self.damaged_bodies:
            raise StoreCorruptError("a sealed value was altered or moved")
        try:
            return self.bodies[job_id]
        except KeyError:
            raise JobNotFoundError(job_id) from None

    def jobs(self) -> list[Job]:
        return [self.view(record) for record in self.records.values()]

    def queued(self, key: BatchKey | None = None) -> list[Job]:
        """Return what waits, oldest first."""
        waiting = [
            record
            for record in self.pending.values()
            if record.state is JobState.QUEUED
            and (record.id, record.attempt + 1) not in self.claimed_by
            and (key is None or record.key == key)
        ]
        return sorted(waiting, key=lambda job: (job.ready_at, job.id))

    def check(self, key: BatchKey) -> None:
        """Raise if a row of this queue cannot be read."""
        if key in self.damaged_queues:
            raise StoreCorruptError("a row of a queue cannot be read")

    def erase(self, job_id: JobId) -> None:
        """Forget all but the claims, which the settlement of a batch needs."""
        for kept in (self.records, self.pending, self.bodies, self.results, self.deliveries):
            kept.pop(job_id, None)
        self.notices.owed.pop(job_id, None)
        self.idempotency = {
            place: known for place, known in self.idempotency.items() if known != job_id
        }


@dataclass(frozen=True, slots=True)
class _Claim:
    item: Item
    affinity: str
    tokens: int
    deadline: datetime


class MemoryJobStore:
    def __init__(self, memory: _Memory) -> None:
        self._memory = memory
        self.damaged: set[JobId] = set()
        """Those whose records cannot be read."""

        self.damaged_bodies = memory.damaged_bodies
        """Those whose calls cannot be read."""

    async def accept(self, new: NewJob) -> Acceptance:
        memory, job = self._memory, new.job
        if new.credential is not None:
            memory.credentials.setdefault(new.credential.id, new.credential)
            memory.unused.discard(new.credential.id)
        if new.idempotency_key is not None:
            known = memory.idempotency.setdefault((job.owner, new.idempotency_key), job.id)
            if known != job.id:
                return Acceptance(await self.get(known), created=False)
        assert job.id not in memory.records
        memory.keep(job)
        memory.bodies[job.id] = new.body
        memory.deliveries[job.id] = Delivery(
            job_id=job.id,
            owner=job.owner,
            fingerprint=job.fingerprint,
            state=Answered.WAITING,
            waiter_until=new.waiter_until,
            retry_count=new.retry_count,
            claimed_at=job.accepted_at,
        )
        return Acceptance(job, created=True)

    async def find_keyed(self, owner: OwnerId, idempotency_key: str) -> Job | None:
        known = self._memory.idempotency.get((owner, idempotency_key))
        return None if known is None else await self.get(known)

    async def get(self, job_id: JobId) -> Job:
        if job_id in self.damaged:
            raise StoreCorruptError("a stored job cannot be read")
        try:
            return self._memory.view(self._memory.records[job_id])
        except KeyError:
            raise JobNotFoundError(job_id) from None

    async def get_many(self, job_ids: Sequence[JobId]) -> Sequence[Job]:
        return [await self.get(job_id) for job_id in job_ids if job_id in self._memory.records]

    def set_back(self, jobs: Iterable[Job]) -> None:
        """Forget what became of jobs, as a server does that was behind the one that failed."""
        for job in jobs:
            self._memory.keep(job)
            self._memory.results.pop(job.id, None)

    async def replace_many(self, writes: Sequence[JobWrite]) -> frozenset[JobId]:
        assert len({write.after.id for write in writes}) == len(writes)
        return frozenset(write.after.id for write in writes if not self._replace(write))

    def _replace(self, write: JobWrite) -> bool:
        memory, after = self._memory, write.after
        if after.id in self.damaged:
            raise StoreCorruptError("a stored job cannot be read")
        before = memory.records.get(after.id)
        if before is None or memory.view(before).version != after.version - 1:
            return False
        memory.keep(after)
        memory.notices.owe(after)
        if write.result is not None:
            memory.results[after.id] = write.result
        memory.ledger.add(write.bookings)
        if after.state is JobState.CANCELLED:
            memory.bodies.pop(after.id, None)
            memory.deliveries.pop(after.id, None)
        return True

    async def body(self, job_id: JobId) -> bytes:
        return self._memory.body(job_id)

    async def result(self, job_id: JobId) -> Result | None:
        return self._memory.results.get(job_id)

    async def list_jobs(
        self, owner: OwnerId, where: JobFilter, *, after: JobId | None, limit: int
    ) -> Sequence[Job | UnreadJob]:
        mine = [job for job in self._memory.jobs() if job.owner == owner]
        mine.sort(key=lambda job: (job.accepted_at, job.id), reverse=True)
        if after is not None:
            places = [place for place, job in enumerate(mine) if job.id == after]
            if not places:
                raise JobNotFoundError(after)
            mine = mine[places[0] + 1 :]
        wanted = islice((job for job in mine if _matches(job, where)), limit)
        unread = StoreCorruptError("a stored job cannot be read")
        return [UnreadJob(job.id, unread) if job.id in self.damaged else job for job in wanted]

    async def erase(self, job_id: JobId) -> None:
        job = self._memory.records.get(job_id)
        assert job is None or job.state.is_terminal
        self._memory.erase(job_id)

    async def pending(self, owners: Sequence[OwnerId] | None = None) -> Mapping[OwnerId, Pending]:
        sums: dict[OwnerId, Pending] = {}
        for job in self._memory.pending.values():
            if owners is None or job.owner in owners:
                seen = sums.get(job.owner, Pending(0, 0))
                sums[job.owner] = Pending(seen.jobs + 1, seen.body_bytes + job.body_bytes)
        return sums

    async def prune(self, *, finalized_before: datetime, limit: int) -> int:
        ended = [
            job
            for job in self._memory.records.values()
            if job.finalized_at is not None and job.finalized_at < finalized_before
        ]
        pruned = sorted(ended, key=lambda job: job.finalized_at or job.accepted_at)[:limit]
        for job in pruned:
            self._memory.erase(job.id)
        return len(pruned)


def _matches(job: Job, where: JobFilter) -> bool:
    if where.states is not None and job.state not in where.states:
        return False
    return where.tag is None or job.tags.get(where.tag[0]) == where.tag[1]


class MemoryQueueStore:
    def __init__(self, memory: _Memory) -> None:
        self._memory = memory
        self.damaged = memory.damaged_queues
        """Those of which a row cannot be read."""

    async def take(self, key: BatchKey, *, ready_at: datetime, limit: int) -> Sequence[Job]:
        self._memory.check(key)
        ready = [job for job in self._memory.queued(key) if job.ready_at <= ready_at]
        return sorted(ready, key=lambda job: job.deadline)[:limit]

    async def due(self, key: BatchKey, *, before: datetime, limit: int) -> Sequence[Job]:
        self._memory.check(key)
        due = [job for job in self._memory.queued(key) if job.deadline < before]
        return sorted(due, key=lambda job: job.deadline)[:limit]

    async def escalating(self, *, limit: int) -> Sequence[Job]:
        jobs = self._memory.pending.values()
        return [job for job in jobs if job.state is JobState.ESCALATING][:limit]


class MemoryDeliveryStore:
    def __init__(self, memory: _Memory) -> None:
        self._memory = memory

    async def claim(
        self, owner: OwnerId, fingerprint: str, *, retry_count: int, now: datetime
    ) -> JobId | None:
        ranked = []
        # Insertion is acceptance, so that the first of a rank is the oldest.
        for age, delivery in enumerate(self._memory.deliveries.values()):
            if (delivery.owner, delivery.fingerprint) == (owner, fingerprint):
                rank = claim_rank(delivery, retry_count=retry_count, now=now)
                if rank is not None:
                    ranked.append((rank, age, delivery))
        if not ranked:
            return None
        best = min(ranked, key=lambda entry: entry[:2])[2]
        self._memory.deliveries[best.job_id] = claimed(best, retry_count=retry_count, now=now)
        return best.job_id

    async def renew(self, job_ids: Sequence[JobId], *, until: datetime) -> None:
        for job_id in job_ids:
            delivery = self._memory.deliveries.get(job_id)
            if delivery is not None and delivery.state is Answered.WAITING:
                self._memory.deliveries[job_id] = replace(delivery, waiter_until=until)

    async def finish(self, notes: Sequence[DeliveryNote]) -> None:
        for note in notes:
            delivery = self._memory.deliveries.get(note.job_id)
            if delivery is not None and delivery.retry_count <= note.retry_count:
                state = Answered.FLUSHED if note.flushed else Answered.BROKEN
                self._memory.deliveries[note.job_id] = replace(delivery, state=state)

    async def claimable_owners(self, *, now: datetime) -> frozenset[OwnerId]:
        return frozenset(
            delivery.owner
            for delivery in self._memory.deliveries.values()
            if claim_rank(delivery, retry_count=0, now=now) is not None
        )


class MemoryCredentialStore:
    def __init__(self, memory: _Memory) -> None:
        self._memory = memory
        self._known = memory.credentials
        self.damaged: set[CredentialId] = set()
        """Those that stand there and cannot be read."""

    async def remember(self, credential: Credential) -> None:
        self._known.setdefault(credential.id, credential)
        self._memory.unused.discard(credential.id)

    async def get(self, credential_id: CredentialId) -> Credential | None:
        if credential_id in self.damaged:
            raise StoreCorruptError("a sealed value was altered or moved")
        return self._known.get(credential_id)

    async def of_owner(self, owner: OwnerId, upstream: str) -> Sequence[Credential]:
        mine = [one for one in await self.all() if (one.owner, one.upstream) == (owner, upstream)]
        never = datetime.min.replace(tzinfo=UTC)
        return sorted(mine, key=lambda one: one.succeeded_at or never, reverse=True)

    async def all(self) -> Sequence[Credential]:
        return [one for one in self._known.values() if one.id not in self.damaged]

    async def accepted(self, credential_id: CredentialId, *, at: datetime) -> None:
        known = self._known.get(credential_id)
        if known is not None:
            self._known[credential_id] = replace(
                known, succeeded_at=at, paused_at=None, pause_status=None, pause_body=None
            )

    async def pause(
        self, credential_id: CredentialId, *, at: datetime, status: int | None, body: bytes | None
    ) -> None:
        known = self._known.get(credential_id)
        if known is not None:
            self._known[credential_id] = replace(
                known, paused_at=known.paused_at or at, pause_status=status, pause_body=body
            )

    async def forget_unused(self, *, limit: int) -> int:
        memory = self._memory
        used = {job.key.credential for job in memory.pending.values()}
        used |= {
            batch.key.credential
            for batch in memory.batches.values()
            if batch.state is not BatchState.SETTLED
        }
        needed = {(one.owner, one.upstream) for one in self._known.values() if one.id in used}
        unused = {one.id for one in self._known.values() if (one.owner, one.upstream) not in needed}
        forgotten = sorted(unused & memory.unused)[:limit]
        for credential_id in forgotten:
            del self._known[credential_id]
        memory.unused = unused - set(forgotten)
        return len(forgotten)


class MemoryBatchStore:
    def __init__(self, memory: _Memory) -> None:
        self._memory = memory
        self.damaged: set[BatchId] = set()
        """Those whose records cannot be read."""

    async def heads(self) -> Sequence[Head]:
        grouped: dict[BatchKey, list[Job]] = {}
        for job in self._memory.queued():
            grouped.setdefault(job.key, []).append(job)
        return [self._head(key, jobs) for key, jobs in grouped.items()]

    def _head(self, key: BatchKey, jobs: Sequence[Job]) -> Head:
        credential = self._memory.credentials.get(key.credential)
        return Head(
            key=key,
            count=len(jobs),
            body_bytes=sum(job.body_bytes for job in jobs),
            tokens=sum(job.tokens for job in jobs),
            oldest_at=min(job.ready_at for job in jobs),
            newest_at=max(job.ready_at for job in jobs),
            nearest_deadline=min(job.deadline for job in jobs),
            held=sum(job.answer is AnswerMode.WAIT for job in jobs),
            small_batches=self._memory.small.get(key, 0),
            paused=credential is not None and credential.paused_at is not None,
        )

    async def add(self, batch: Batch) -> None:
        assert batch.id not in self._memory.batches
        self._memory.batches[batch.id] = batch

    async def get(self, batch_id: BatchId) -> Batch | None:
        return self._memory.batches.get(batch_id)

    async def replace(self, after: Batch) -> bool:
        before = self._memory.batches.get(after.id)
        if before is None or before.version != after.version - 1:
            return False
        self._memory.batches[after.id] = after
        return True

    def lose_all(self) -> None:
        """Have nothing any more, as a Redis that was started again without its files."""
        self._memory.batches.clear()

    async def live(self) -> Sequence[Batch]:
        batches = [b for b in self._memory.batches.values() if b.id not in self.damaged]
        unsettled = [batch for batch in batches if batch.state is not BatchState.SETTLED]
        return sorted(unsettled, key=lambda batch: (batch.created_at, batch.id))

    async def recent(self, *, limit: int) -> Sequence[Batch]:
        batches = self._memory.batches.values()
        newest = sorted(batches, key=lambda batch: (batch.created_at, batch.id), reverse=True)
        return newest[:limit]

    async def claim(
        self, key: BatchKey, batch_id: BatchId, limits: ClaimLimits, *, ready_at: datetime
    ) -> Claimed:
        claims = self._memory.items.setdefault(batch_id, [])
        batch = self._memory.batches.get(batch_id)
        if batch is None or batch.state is not BatchState.FILLING:
            return _claimed(claims, complete=True)
        self._memory.check(key)
        held = _claimed(claims, complete=False)
        ready = [job for job in self._memory.queued(key) if job.ready_at <= ready_at]
        for moved, job in enumerate(ready):
            if moved == CLAIM_CHUNK:
                return held
            if not _fits(job, held, limits):
                break
            item = Item(held.count + 1, job.id, job.attempt + 1, job.body_bytes)
            claims.append(_Claim(item, job.affinity, job.tokens, job.deadline))
            self._memory.claimed_by[job.id, item.attempt] = batch_id
            held = _with(job, held)
        return replace(held, complete=True)

    async def note_size(self, key: BatchKey, *, small: bool) -> None:
        self._memory.small[key] = self._memory.small.get(key, 0) + 1 if small else 0

    async def items(self, batch_id: BatchId) -> AsyncIterator[Sequence[Item]]:
        for chunk in _chunks(self._still_open(batch_id), LINES_CHUNK):
            yield chunk

    async def lines(self, batch_id: BatchId) -> AsyncIterator[Sequence[Line]]:
        chunk: list[Line] = []
        size = 0
        for item in self._still_open(batch_id):
            chunk.append(Line(item.job_id, item.attempt, self._memory.body(item.job_id)))
            size += len(chunk[-1].body)
            if len(chunk) == LINES_CHUNK or size >= LINES_CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk

    def _still_open(self, batch_id: BatchId) -> list[Item]:
        claims = self._memory.items.get(batch_id, ())
        ordered = sorted(claims, key=lambda claim: (claim.affinity, claim.item.seq))
        return [claim.item for claim in ordered if self._is_owed(claim.item.job_id, batch_id)]

    def _is_owed(self, job_id: JobId, batch_id: BatchId) -> bool:
        record = self._memory.pending.get(job_id)
        job = self._memory.view(record) if record is not None else None
        return job is not None and (job.state, job.batch_id) == (JobState.BATCHED, batch_id)

    async def issued(
        self, batch_id: BatchId, custom_ids: Sequence[tuple[JobId, int]]
    ) -> frozenset[tuple[JobId, int]]:
        claims = self._memory.items.get(batch_id, ())
        return frozenset(custom_ids) & {(one.item.job_id, one.item.attempt) for one in claims}

    open_items = items

    async def lost(self) -> Sequence[BatchId]:
        filled = [batch_id for batch_id, claims in self._memory.items.items() if claims]
        return [batch_id for batch_id in filled if batch_id not in self._memory.batches]

    async def unread(self) -> Sequence[BatchId]:
        return sorted(self.damaged)

    async def drop_items(self, batch_id: BatchId) -> None:
        for claim in self._memory.items.pop(batch_id, ()):
            self._memory.claimed_by.pop((claim.item.job_id, claim.item.attempt), None)

    async def prune(self, *, settled_before: datetime, limit: int) -> int:
        old = [
            batch.id
            for batch in self._memory.batches.values()
            if batch.state is BatchState.SETTLED
            and batch.settled_at is not None
            and batch.settled_at < settled_before
        ][:limit]
        for batch_id in old:
            del self._memory.batches[batch_id]
            await self.drop_items(batch_id)
        return len(old)


def _fits(job: Job, held: Claimed, limits: ClaimLimits) -> bool:
    return held.count == 0 or (
        held.count < limits.max_requests
        and held.body_bytes + job.body_bytes <= limits.max_bytes
        and (limits.max_tokens is None or held.tokens + job.tokens <= limits.max_tokens)
    )


def _with(job: Job, held: Claimed) -> Claimed:
    return Claimed(
        count=held.count + 1,
        body_bytes=held.body_bytes + job.body_bytes,
        tokens=held.tokens + job.tokens,
        nearest_deadline=min(held.nearest_deadline or job.deadline, job.deadline),
        complete=False,
    )


def _claimed(claims: Sequence[_Claim], *, complete: bool) -> Claimed:
    return Claimed(
        count=len(claims),
        body_bytes=sum(claim.item.body_bytes for claim in claims),
        tokens=sum(claim.tokens for claim in claims),
        nearest_deadline=min((claim.deadline for claim in claims), default=None),
        complete=complete,
    )


def _chunks(items: Iterable[Item], size: int) -> Iterable[Sequence[Item]]:
    left = iter(items)
    while chunk := list(islice(left, size)):
        yield chunk
