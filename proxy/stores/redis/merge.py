"""One order over many shards, read front by front.

Each shard gives the first rows of its own order and says how far it looked. What
lies before the place up to which every shard has looked is certain; the rest waits
for the next round.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeAlias, TypeVar

from proxy.core.ids import SHARDS, JobId
from proxy.stores.redis.client import Client
from proxy.stores.redis.commands import read
from proxy.stores.redis.job_reads import stored_here
from proxy.stores.redis.replies import Reply, as_int, as_list, as_text

Row: TypeAlias = tuple[int, str]
"""A number to order by, and a job."""

AnyRow = TypeVar("AnyRow", bound=tuple[object, ...])
"""Such a row, or one with more behind these two."""


@dataclass(frozen=True, slots=True)
class Front(Generic[AnyRow]):
    """The first rows of one shard."""

    rows: Sequence[AnyRow]
    upto: AnyRow | None
    """The last row that was looked at; nothing if there are no more."""


async def fronts_of(
    client: Client, names: Sequence[str], *, upto: int | str, each: int
) -> list[Front[Row]]:
    """Read the first `each` rows of these sorted sets, up to a score as `ZRANGE` takes it."""
    limits = ("BYSCORE", "LIMIT", 0, each, "WITHSCORES")
    replies = await client.call_many(
        [read("ZRANGE", name, "-inf", upto, *limits) for name in names], background=True
    )
    return [_front(reply, each) for reply in replies]


def _front(reply: Reply, asked_for: int) -> Front[Row]:
    flat = as_list(reply)
    pairs = zip(flat[::2], flat[1::2], strict=True)
    rows = [(as_int(number), as_text(job)) for job, number in pairs]
    front = front_of(rows, asked_for)
    # What is no job has no place of its own that could be looked at.
    return replace(front, rows=[row for row in rows if stored_here(JobId(row[1]))])


def front_of(rows: Sequence[AnyRow], asked_for: int) -> Front[AnyRow]:
    """Return the front of a shard that was asked for so many rows and gave these."""
    return Front(rows, rows[-1] if len(rows) == asked_for else None)


def certain(fronts: Iterable[Front[AnyRow]], *, reverse: bool = False) -> list[AnyRow]:
    """Return, in order, the rows that no unread row of any shard can precede."""
    fronts = list(fronts)
    rows = sorted((row for front in fronts for row in front.rows), reverse=reverse)
    limits = [front.upto for front in fronts if front.upto is not None]
    if not limits:
        return rows
    if reverse:
        bound = max(limits)
        return [row for row in rows if row >= bound]
    bound = min(limits)
    return [row for row in rows if row <= bound]


def share(limit: int) -> int:
    """Return how many rows to ask each shard for, so that about `limit` are certain.

    Shards are filled by a hash, so the fullest is not far above the mean; asking for
    all `limit` from each would read 64 times too much.
    """
    return max(1, min(limit, limit * 2 // SHARDS + 8))


def parse_rows(reply: Reply) -> list[Row]:
    """Return the rows of lines `number job`."""
    rows = []
    for line in as_text(reply).splitlines():
        number, _, job = line.partition(" ")
        rows.append((as_int(number), job))
    return rows


def parse_row(reply: Reply) -> Row | None:
    """Return a row, or nothing for an empty text."""
    found = parse_rows(reply)
    return found[0] if found else None
