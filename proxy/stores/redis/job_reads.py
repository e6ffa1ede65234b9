"""Jobs as they are read: each with what a claim makes of its record."""

from collections.abc import Sequence

from proxy.core.errors import StoreCorruptError
from proxy.core.ids import SHARDS, JobId, is_job_id, shard_of
from proxy.core.job import Job
from proxy.ports.jobs import UnreadJob
from proxy.stores.redis import job_scripts, keys
from proxy.stores.redis.client import Client
from proxy.stores.redis.commands import Command
from proxy.stores.redis.records import Header, open_record
from proxy.stores.redis.replies import Reply, as_bytes, as_list, as_text
from proxy.stores.unread import Unread


def get_call(job_id: JobId) -> Command:
    """Return the command that reads a job and its claim."""
    shard = shard_of(job_id)
    return job_scripts.GET.call([keys.record(job_id), keys.claims(shard)], job_id)


def parse_job(reply: Reply, job_id: JobId) -> Job | None:
    """Return the job that `job_scripts.GET` found for `job_id`.

    Raises:
        StoreCorruptError: if it is another one, or cannot be read.
    """
    if reply is None:
        return None
    found = as_list(reply)
    _, packed = Header.of(as_bytes(found[0]))
    claimed_by = found[1] if len(found) > 1 else None
    job = open_record(packed, None if claimed_by is None else as_text(claimed_by))
    # Whatever else may go wrong between here and there: never another one's job.
    if job.id != job_id:
        raise StoreCorruptError(f"another job stands where {job_id} should")
    return job


async def find_jobs(
    client: Client, job_ids: Sequence[JobId], *, background: bool = False
) -> list[Job]:
    """Return those of the jobs that exist, in the order asked for."""
    stored = await _stored(client, job_ids, background=background)
    return [job for _, one in stored if (job := parse_job(*one)) is not None]


async def find_listed(
    client: Client, job_ids: Sequence[JobId], unread: Unread
) -> list[Job | UnreadJob]:
    """Return what `find_jobs` does, and in their places those that cannot be read."""
    stored = await _stored(client, job_ids, background=True)
    found = [
        (job_id, unread.read(job_id, one, lambda one: parse_job(*one))) for job_id, one in stored
    ]
    return [
        UnreadJob(job_id, job) if isinstance(job, StoreCorruptError) else job
        for job_id, job in found
        if job is not None
    ]


async def find_readable(client: Client, job_ids: Sequence[JobId], unread: Unread) -> list[Job]:
    """Return what `find_jobs` does, less those that cannot be read."""
    stored = await _stored(client, job_ids)
    return [job for job in unread.readable(stored, lambda one: parse_job(*one)) if job is not None]


async def _stored(
    client: Client, job_ids: Sequence[JobId], *, background: bool = False
) -> list[tuple[JobId, tuple[Reply, JobId]]]:
    """Return what is stored of these jobs, each by its ID and with it."""
    ours = [job_id for job_id in job_ids if stored_here(job_id)]
    replies = await client.call_many([get_call(job_id) for job_id in ours], background=background)
    return [(job_id, (reply, job_id)) for reply, job_id in zip(replies, ours, strict=True)]


def stored_here(job_id: JobId) -> bool:
    """Return whether the text can name a job of ours at all."""
    return is_job_id(job_id) and shard_of(job_id) < SHARDS
