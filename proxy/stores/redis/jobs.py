"""Job records, payloads and results."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from proxy.core.errors import JobNotFoundError, StoreCorruptError, StoreUnavailableError
from proxy.core.ids import JobId, OwnerId, shard_for, shard_of
from proxy.core.job import Job
from proxy.ports.jobs import (
    Acceptance,
    Credential,
    JobFilter,
    JobWrite,
    NewJob,
    Pending,
    Result,
    UnreadJob,
)
from proxy.stores.contexts import payload_context, result_context
from proxy.stores.redis import keys
from proxy.stores.redis.client import Client
from proxy.stores.redis.commands import read, write
from proxy.stores.redis.erase import erase_job, prune_jobs
from proxy.stores.redis.job_calls import (
    Before,
    accept_call,
    call_digest,
    idempotency_place,
    likely_before,
    replace_call,
)
from proxy.stores.redis.job_reads import find_jobs, get_call, parse_job, stored_here
from proxy.stores.redis.listing import list_jobs
from proxy.stores.redis.lua import PENDING_JOB
from proxy.stores.redis.replies import Reply, as_int, as_list, as_map, as_text
from proxy.stores.unread import Unread
from proxy.stores.vault import SEAL_INLINE_BYTES, Vault

LATE_AT_MOST: Final = timedelta(days=7)
"""By how much a job may outlive its deadline and then its retention, in all: its batch may end
late, and be pruned late."""

TRIES: Final = 20
"""How often a write looks again because the job moved in between."""


class RedisJobStore:
    """Durable jobs. What was said in one vanishes `keep` after its end, if nobody prunes it."""

    def __init__(
        self,
        client: Client,
        vault: Vault,
        *,
        remember: Callable[[Credential], Awaitable[None]],
        expect: Callable[[Job], None],
        keep: timedelta,
        results: timedelta,
    ) -> None:
        """`remember` keeps the credential of a job, and `expect` is told of each accepted.

        After `results` jobs are pruned, as a rule.
        """
        self._client = client
        self._vault = vault
        self._remember = remember
        self._expect = expect
        self._keep = keep
        self._results = results
        self._unread = Unread()

    async def accept(self, new: NewJob) -> Acceptance:
        job, key = new.job, new.idempotency_key
        place = idempotency_place(job.owner, key) if key is not None else ""
        if len(new.body) <= SEAL_INLINE_BYTES:
            sealed = self._vault.seal(new.body, context=payload_context(job.id))
        else:
            (sealed,) = await self._seal([(new.body, payload_context(job.id))])
        if new.credential is not None:
            # Another slot, so another call, and the first of the two.
            await self._remember(new.credential)
        home = shard_for(job.fingerprint)
        if home != shard_of(job.id):
            await self._point_here(home, job)
        gone = ""
        for _ in range(TRIES):
            known = await self._client.call(accept_call(new, sealed, place=place, gone=gone))
            if known is None:
                self._expect(job)
                return Acceptance(job, created=True)
            gone = as_text(known)
            found = await self._find(JobId(gone))
            if found is not None:
                return Acceptance(found, created=False)
            # Erased: the key is free again.
        raise StoreUnavailableError("an idempotency key changes faster than it can be read")

    async def find_keyed(self, owner: OwnerId, idempotency_key: str) -> Job | None:
        # The job was put into the shard of its key, so that the two are written as one.
        name = keys.idempotency(shard_for(idempotency_key))
        place = idempotency_place(owner, idempotency_key)
        known = await self._client.call(read("HGET", name, place))
        return None if known is None else await self._find(JobId(as_text(known)))

    async def get(self, job_id: JobId) -> Job:
        job = await self._find(job_id)
        if job is None:
            raise JobNotFoundError(job_id)
        return job

    async def get_many(self, job_ids: Sequence[JobId]) -> Sequence[Job]:
        return await find_jobs(self._client, job_ids)

    async def replace_many(self, writes: Sequence[JobWrite]) -> frozenset[JobId]:
        results = await self._seal_results(writes)
        befores = {write.after.id: likely_before(write.after) for write in writes}
        refused: set[JobId] = set()
        todo = list(range(len(writes)))
        for _ in range(TRIES):
            replies = await self._client.call_many(
                [
                    replace_call(
                        writes[place],
                        befores[writes[place].after.id],
                        results[place],
                        keep=self._keep,
                    )
                    for place in todo
                ]
            )
            again = []
            for place, reply in zip(todo, replies, strict=True):
                match as_text(reply).split(" "):
                    case ["written"]:
                        continue
                    case ["refused"]:
                        refused.add(writes[place].after.id)
                    case [state, key]:
                        befores[writes[place].after.id] = Before(state, key)
                        again.append(place)
            todo = again
            if not todo:
                return frozenset(refused)
        raise StoreUnavailableError("a job moves faster than it can be written")

    async def body(self, job_id: JobId) -> bytes:
        reply = None
        if stored_here(job_id):
            reply = await self._client.call(read("GET", keys.payload(job_id)))
        if reply is None:
            raise JobNotFoundError(job_id)
        return open_payload(self._vault, job_id, reply)

    async def result(self, job_id: JobId) -> Result | None:
        if not stored_here(job_id):
            return None
        reply = await self._client.call(read("GET", keys.result(job_id)))
        if reply is None:
            return None
        if not isinstance(reply, bytes):
            raise StoreCorruptError("a stored result cannot be read")
        head, _, sealed = reply.partition(b"\n")
        try:
            status, content_type, request_id = json.loads(head)
        except (TypeError, ValueError):
            raise StoreCorruptError("a stored result cannot be read") from None
        return Result(
            status_code=status,
            body=self._vault.open(sealed, context=result_context(job_id)),
            content_type=content_type,
            request_id=request_id,
        )

    async def list_jobs(
        self, owner: OwnerId, where: JobFilter, *, after: JobId | None, limit: int
    ) -> Sequence[Job | UnreadJob]:
        unread = self._unread
        return await list_jobs(self._client, owner, where, unread, after=after, limit=limit)

    async def erase(self, job_id: JobId) -> None:
        if stored_here(job_id):
            await erase_job(self._client, job_id)

    async def pending(self, owners: Sequence[OwnerId] | None = None) -> Mapping[OwnerId, Pending]:
        if owners is not None and not owners:
            return {}
        names = list(dict.fromkeys(owners or ()))
        replies = await self._client.call_many(
            [
                read("HGETALL", keys.pending(shard))
                if owners is None
                else read("HMGET", keys.pending(shard), *names)
                for shard in keys.ALL_SHARDS
            ]
        )
        return _sum_pending(replies, None if owners is None else names)

    async def prune(self, *, finalized_before: datetime, limit: int) -> int:
        return await prune_jobs(self._client, finalized_before, limit)

    async def _find(self, job_id: JobId) -> Job | None:
        if not stored_here(job_id):
            return None
        return parse_job(await self._client.call(get_call(job_id)), job_id)

    async def _point_here(self, home: int, job: Job) -> None:
        """Let repeats of the call find the job, which is not in the shard of its fingerprint.

        Before the job is there: a pointer to a shard with nothing in it does no harm.
        """
        name = keys.elsewhere(home, call_digest(job.owner, job.fingerprint))
        # For as long as the job, and no longer: kept for months, pointers would take more
        # room than all jobs. An equal call's may be needed until later.
        kept = job.deadline - job.accepted_at + LATE_AT_MOST + self._results
        seconds = int(kept.total_seconds())
        await self._client.call_many(
            [
                write("SADD", name, shard_of(job.id)),
                write("EXPIRE", name, seconds, "NX"),
                write("EXPIRE", name, seconds, "GT"),
            ]
        )

    async def _seal_results(self, writes: Sequence[JobWrite]) -> list[bytes]:
        bodies = [
            (write.result.body if write.result else b"", result_context(write.after.id))
            for write in writes
        ]
        return [
            b"" if write.result is None else _result_head(write.result) + sealed
            for write, sealed in zip(writes, await self._seal(bodies), strict=True)
        ]

    async def _seal(self, bodies: Sequence[tuple[bytes, str]]) -> list[bytes]:
        def seal() -> list[bytes]:
            return [self._vault.seal(body, context=context) for body, context in bodies]

        if sum(len(body) for body, _ in bodies) <= SEAL_INLINE_BYTES:
            return seal()
        return await asyncio.to_thread(seal)


def open_payload(vault: Vault, job_id: JobId, sealed: Reply) -> bytes:
    """Return the body of the job's call."""
    if not isinstance(sealed, bytes):
        raise StoreCorruptError("a stored payload cannot be read")
    return vault.open(sealed, context=payload_context(job_id))


def _result_head(result: Result) -> bytes:
    head = [result.status_code, result.content_type, result.request_id]
    return json.dumps(head).encode() + b"\n"


def _sum_pending(
    replies: Sequence[Reply], names: Sequence[OwnerId] | None
) -> dict[OwnerId, Pending]:
    sums: dict[OwnerId, Pending] = {}
    for reply in replies:
        if names is None:
            found = {OwnerId(owner): value for owner, value in as_map(reply).items()}
        else:
            pairs = zip(names, as_list(reply), strict=True)
            found = {owner: value for owner, value in pairs if isinstance(value, bytes)}
        for owner, value in found.items():
            jobs, size = divmod(as_int(value), PENDING_JOB)
            seen = sums.get(owner, Pending(0, 0))
            sums[owner] = Pending(seen.jobs + jobs, seen.body_bytes + size)
    return sums
