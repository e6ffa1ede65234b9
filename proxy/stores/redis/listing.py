"""The list of an owner's jobs: kept in every shard, and merged page by page."""

from typing import Final

from proxy.core.errors import JobNotFoundError
from proxy.core.ids import JobId, OwnerId
from proxy.core.job import Job, JobState
from proxy.ports.jobs import JobFilter
from proxy.stores.codec import to_micros
from proxy.stores.redis import job_scripts, keys
from proxy.stores.redis.client import Client
from proxy.stores.redis.merge import Front, Row, certain, parse_rows, share
from proxy.stores.redis.rows import find_jobs
from proxy.stores.redis.wire import as_int, as_list

PAGE: Final = 500

_LATEST: Final = ("+inf", "")


async def list_jobs(
    client: Client, owner: OwnerId, where: JobFilter, *, after: JobId | None, limit: int
) -> list[Job]:
    """Return up to `limit` jobs, newest first.

    Raises:
        JobNotFoundError: if `after` is no job of this owner.
    """
    states = frozenset(JobState) if where.states is None else where.states
    position: tuple[str | int, str] = _LATEST
    if after is not None:
        (start,) = await find_jobs(client, [after], background=True) or (None,)
        if start is None or start.owner != owner:
            raise JobNotFoundError(after)
        position = (to_micros(start.accepted_at), start.id)
    found: list[Job] = []
    while len(found) < limit and states:
        size = PAGE
        if where.tag is None and where.states is None:
            size = min(PAGE, limit - len(found))
        rows, more = await _page(client, owner, where, position, size)
        jobs = await find_jobs(client, [JobId(job_id) for _, job_id in rows], background=True)
        found += [job for job in jobs if job.owner == owner and job.state in states]
        if not more:
            break
        position = rows[-1]
    return found[:limit]


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
