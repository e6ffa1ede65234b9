"""The list of an owner's jobs: kept in every shard, and merged page by page."""

from typing import Final

from proxy.core.errors import JobNotFoundError, StoreCorruptError
from proxy.core.ids import JobId, OwnerId, shard_of
from proxy.core.job import Job, JobState
from proxy.ports.jobs import JobFilter, UnreadJob
from proxy.stores.codec import to_micros
from proxy.stores.redis import job_scripts, keys
from proxy.stores.redis.client import Client
from proxy.stores.redis.commands import read
from proxy.stores.redis.job_reads import find_jobs, find_listed
from proxy.stores.redis.merge import Front, Row, certain, parse_rows, share
from proxy.stores.redis.replies import as_int, as_list
from proxy.stores.unread import Unread

PAGE: Final = 500

_LATEST: Final = ("+inf", "")


async def list_jobs(
    client: Client,
    owner: OwnerId,
    where: JobFilter,
    unread: Unread,
    *,
    after: JobId | None,
    limit: int,
) -> list[Job | UnreadJob]:
    """Return up to `limit` jobs, newest first.

    Raises:
        JobNotFoundError: if `after` is no job of this owner.
    """
    states = frozenset(JobState) if where.states is None else where.states
    position: tuple[str | int, str] = _LATEST
    if after is not None:
        position = (await _accepted_at(client, owner, after), after)
    found: list[Job | UnreadJob] = []
    while len(found) < limit and states:
        size = PAGE
        if where.tag is None and where.states is None:
            size = min(PAGE, limit - len(found))
        rows, more = await _page(client, owner, where, position, size)
        jobs = await find_listed(client, [JobId(job_id) for _, job_id in rows], unread)
        found += [
            job for job in jobs if isinstance(job, UnreadJob) or _is_wanted(job, owner, states)
        ]
        if not more:
            break
        position = rows[-1]
    return found[:limit]


def _is_wanted(job: Job, owner: OwnerId, states: frozenset[JobState]) -> bool:
    return job.owner == owner and job.state in states


async def _accepted_at(client: Client, owner: OwnerId, job_id: JobId) -> int:
    """Return where the job stands in its owner's lists.

    Raises:
        JobNotFoundError: if it is no job of this owner.
    """
    try:
        (job,) = await find_jobs(client, [job_id], background=True) or (None,)
    except StoreCorruptError:
        # It stands there nevertheless.
        lists = [keys.listed(shard_of(job_id), owner, state) for state in JobState]
        places = await client.call_many([read("ZSCORE", one, job_id) for one in lists])
        found = [as_int(place) for place in places if place is not None]
    else:
        found = [to_micros(job.accepted_at)] if job is not None and job.owner == owner else []
    if not found:
        raise JobNotFoundError(job_id)
    return found[0]


async def _page(
    client: Client, owner: OwnerId, where: JobFilter, position: tuple[str | int, str], size: int
) -> tuple[list[Row], bool]:
    """Return about `size` rows after the position, and whether there may be more."""
    each = share(size)
    replies = await client.call_many(
        [
            job_scripts.PAGE.call(_lists(shard, owner, where), *position, each)
            for shard in keys.ALL_SHARDS
        ],
        background=True,
    )
    fronts = []
    for reply in replies:
        more, lines = as_list(reply)
        rows = parse_rows(lines)
        fronts.append(Front(rows, rows[-1] if as_int(more) else None))
    rows = certain(fronts, reverse=True)
    return rows, any(front.upto is not None for front in fronts)


def _lists(shard: int, owner: OwnerId, where: JobFilter) -> list[str]:
    if where.tag is not None:
        return [keys.tagged(shard, owner, *where.tag)]
    states = frozenset(JobState) if where.states is None else where.states
    # A claimed job's record still says `queued`.
    if JobState.BATCHED in states:
        states |= {JobState.QUEUED}
    return [keys.listed(shard, owner, state) for state in sorted(states)]
