"""Records with sensible defaults, so that a test states only what matters to it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from proxy.core.batch import Batch
from proxy.core.ids import (
    RANDOM_BYTES,
    BatchId,
    CredentialId,
    JobId,
    OwnerId,
    mint_batch_id,
    mint_job_id,
    shard_for,
)
from proxy.core.job import AnswerMode, Job
from proxy.core.lanes import BatchKey, Lane
from proxy.core.repeats import WAITER_LEASE, begun_fingerprint, with_body
from proxy.ports.jobs import Credential, NewJob

T0: Final = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

OWNER: Final = OwnerId("owner-1")
CREDENTIAL: Final = CredentialId("credential-1")
BODY: Final = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hello"}]}'
_BEGUN: Final = begun_fingerprint(
    owner=OWNER, upstream="openai", target="/v1/chat/completions", headers=()
)


class IdFactory:
    """Valid IDs in a fixed order: two factories count alike."""

    def __init__(self) -> None:
        self._count = 0
        self.shards = 1
        """Over how many shards the jobs are spread whose shard does not matter."""

    def random(self, size: int = RANDOM_BYTES) -> bytes:
        """Return bytes that no earlier call returned."""
        self._count += 1
        # By five bits a byte: no more of one tell IDs apart.
        return bytes(self._count >> 5 * at & 31 for at in reversed(range(size)))

    def job(self, now: datetime = T0, *, shard: int | None = None) -> JobId:
        random = self.random()
        return mint_job_id(
            now, shard=self._count % self.shards if shard is None else shard, random=random
        )

    def batch(self, now: datetime = T0) -> BatchId:
        return mint_batch_id(now, random=self.random())


IDS: Final = IdFactory()
"""The one that the factories below draw from."""


def make_key(**changes: Any) -> BatchKey:
    key = BatchKey(
        lane=Lane.BATCH,
        upstream="openai",
        credential=CREDENTIAL,
        endpoint="/v1/chat/completions",
        model="gpt-4o-mini",
    )
    return replace(key, **changes)


def make_job(**changes: Any) -> Job:
    """Return a queued job, accepted at `T0`; its lane follows its key and the other way round."""
    accepted_at = changes.get("accepted_at", T0)
    key = changes.get("key") or make_key(lane=changes.get("lane", Lane.BATCH))
    job = Job(
        id=changes.get("id") or IDS.job(accepted_at),
        owner=OWNER,
        accepted_at=accepted_at,
        deadline=accepted_at + timedelta(hours=26),
        key=key,
        lane=key.lane,
        lane_reason="26h to the deadline",
        target="/v1/chat/completions",
        answer=AnswerMode.JOB,
        decided_by="header",
        fingerprint=with_body(_BEGUN, BODY),
        body_bytes=len(BODY),
        tokens=20,
    )
    return replace(job, **changes)


def new_job(
    job: Job | None = None,
    *,
    body: bytes = BODY,
    retry_count: int = 0,
    waiter_until: datetime | None = None,
    idempotency_key: str | None = None,
    **changes: Any,
) -> NewJob:
    """Return what `JobStore.accept` takes; `changes` are fields of the job."""
    if idempotency_key is not None and job is None:
        # As every job whose call brought a key.
        shard = shard_for(idempotency_key)
        changes = {"id": IDS.job(changes.get("accepted_at", T0), shard=shard)} | changes
    job = job if job is not None else make_job(**({"body_bytes": len(body)} | changes))
    return NewJob(
        job=job,
        body=body,
        retry_count=retry_count,
        waiter_until=waiter_until or job.accepted_at + WAITER_LEASE,
        idempotency_key=idempotency_key,
    )


def make_batch(**changes: Any) -> Batch:
    """Return a batch that is being filled, made at `T0`."""
    created_at = changes.get("created_at", T0)
    batch = Batch(
        id=changes.get("id") or IDS.batch(created_at), key=make_key(), created_at=created_at
    )
    return replace(batch, **changes)


def make_credential(**changes: Any) -> Credential:
    credential = Credential(
        id=CREDENTIAL,
        owner=OWNER,
        upstream="openai",
        headers=(("authorization", "Bearer sk-canary-1"),),
    )
    return replace(credential, **changes)
