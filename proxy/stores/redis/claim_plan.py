"""What a claim knows of the queue, and which rows it therefore takes."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from proxy.ports.batches import Claimed, ClaimLimits
from proxy.stores.codec import from_micros
from proxy.stores.redis.merge import Front, certain, front_of
from proxy.stores.redis.replies import Reply, as_int, as_list, as_text

_NO_LIMIT: Final = 1 << 52


class Waiting(NamedTuple):
    """A row of a queue, as far as a plan must know it."""

    ready: int
    job: str
    shard: int
    body_bytes: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard's part in the batch and in the queue."""

    held: Claimed
    ready: int
    """How many rows may be claimed."""

    at: int | None
    """When the row at the rank that was asked for became ready, if there is one."""

    count: int
    """Of all rows, as are `body_bytes` and `tokens`."""

    body_bytes: int
    tokens: int

    next_bytes: int
    """Of the row that may be claimed first, as is `next_tokens`; 0 if there is none."""

    next_tokens: int

    @property
    def is_blocked(self) -> bool:
        """Whether what stands first is no row of ours: nothing behind it can be claimed."""
        return self.next_bytes < 0


@dataclass(frozen=True, slots=True)
class Room:
    """What a batch has room for."""

    count: int
    body_bytes: int
    tokens: int

    @classmethod
    def of(cls, limits: ClaimLimits, held: Claimed) -> "Room":
        most = _NO_LIMIT if limits.max_tokens is None else limits.max_tokens
        return cls(
            limits.max_requests - held.count,
            limits.max_bytes - held.body_bytes,
            most - held.tokens,
        )

    def part(self, parts: int) -> "Room":
        """Return what each of so many may take without asking the others."""
        return Room(self.count // parts, self.body_bytes // parts, self.tokens // parts)


def plan(
    fronts: Collection[Front[Waiting]], held: Claimed, limits: ClaimLimits
) -> tuple[dict[int, list[Waiting]], bool]:
    """Return which rows to take of each shard, and whether that is all there is to take."""
    taken: dict[int, list[Waiting]] = {}
    room = Room.of(limits, held)
    count, size, tokens = room.count, room.body_bytes, room.tokens
    for row in certain(fronts):
        fits = count > 0 and row.body_bytes <= size and row.tokens <= tokens
        # An empty batch takes the first, whatever it is.
        if not fits and (held.count or taken):
            return taken, True
        count, size, tokens = count - 1, size - row.body_bytes, tokens - row.tokens
        taken.setdefault(row.shard, []).append(row)
    is_all = all(front.upto is None for front in fronts)
    return taken, is_all or count <= 0


def parse_shard(reply: Reply) -> Shard:
    *sums, ready, at, count, size, tokens, next_size, next_tokens = as_list(reply)
    place = as_text(at)
    return Shard(
        held=parse_claimed(sums),
        ready=as_int(ready),
        at=as_int(place) if place else None,
        count=as_int(count),
        body_bytes=as_int(size),
        tokens=as_int(tokens),
        next_bytes=as_int(next_size),
        next_tokens=as_int(next_tokens),
    )


def parse_front(shard: int, reply: Reply, each: int) -> Front[Waiting]:
    rows = []
    for line in as_text(reply).splitlines():
        ready, job, size, tokens = line.split(" ")
        rows.append(Waiting(int(ready), job, shard, int(size), int(tokens)))
    return front_of(rows, each)


def parse_claimed(sums: Sequence[Reply]) -> Claimed:
    count, size, tokens, deadline = sums
    nearest = as_text(deadline)
    return Claimed(
        count=as_int(count),
        body_bytes=as_int(size),
        tokens=as_int(tokens),
        nearest_deadline=from_micros(as_int(nearest)) if nearest else None,
        complete=False,
    )


def total(parts: Iterable[Claimed]) -> Claimed:
    parts = list(parts)
    deadlines = [part.nearest_deadline for part in parts if part.nearest_deadline is not None]
    return Claimed(
        count=sum(part.count for part in parts),
        body_bytes=sum(part.body_bytes for part in parts),
        tokens=sum(part.tokens for part in parts),
        nearest_deadline=min(deadlines, default=None),
        complete=False,
    )
