"""How much each owner may have pending, counted in memory.

A token that no upstream has accepted yet may be anything. Until its upstream
accepts it, all such owners together share one small pool.

Counts are as old as the last pass, so a fleet may overshoot a bound by what it
accepts between two passes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from proxy.core.errors import OverloadedError
from proxy.core.ids import ANONYMOUS, OwnerId
from proxy.ports.jobs import JobStore, Pending


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much may be pending, that is accepted and not terminal."""

    owner_jobs: int = 1_000_000
    owner_bytes: int = 4 << 30
    unverified_jobs: int = 1_000
    """For all unverified owners together."""

    unverified_bytes: int = 64_000_000


@dataclass(slots=True)
class _Sum:
    """One owner's jobs and bytes; changed in place, since every accept does so."""

    jobs: int = 0
    body_bytes: int = 0

    def add(self, jobs: int, body_bytes: int) -> None:
        self.jobs += jobs
        self.body_bytes += body_bytes


class _StoredPool(NamedTuple):
    """What the store has of the pool, which all but these owners share."""

    verified: frozenset[OwnerId]
    sums: tuple[int, int]


class Quota:
    """How much is pending, and whether more may be accepted."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._stored: Mapping[OwnerId, Pending] = {}
        self._earlier: dict[OwnerId, _Sum] = {}
        self._recent: dict[OwnerId, _Sum] = {}
        self._under_way: dict[OwnerId, _Sum] = {}
        self._pool: _StoredPool | None = None

    def reserve(
        self, owner: OwnerId, body_bytes: int, *, verified: frozenset[OwnerId] | None
    ) -> "Reservation":
        """Count one more job, which is made durable in a `with` block of the reservation.

        `verified` are the verified owners, given if `owner` is not one and so takes from the pool.

        Raises:
            OverloadedError: if that is above a bound; nothing is counted then.
        """
        limits = self._limits
        jobs, size = self._used(owner)
        if jobs >= limits.owner_jobs or size + body_bytes > limits.owner_bytes:
            raise OverloadedError(
                f"{jobs} jobs with {size} bytes are pending; allowed are "
                f"{limits.owner_jobs} jobs and {limits.owner_bytes} bytes"
            )
        if verified is not None:
            self._check_pool(body_bytes, verified)
        _sum(self._under_way, owner).add(1, body_bytes)
        return Reservation(self, owner, body_bytes)

    def end(self, owner: OwnerId, body_bytes: int, *, accepted: bool) -> None:
        """Say what became of a job that was reserved."""
        under_way = self._under_way[owner]
        under_way.add(-1, -body_bytes)
        if not under_way.jobs:
            del self._under_way[owner]
        if accepted:
            _sum(self._recent, owner).add(1, body_bytes)

    async def refresh(self, jobs: JobStore) -> None:
        """Count what is pending again.

        What is accepted while the store counts is counted twice until the next time: a bound may be
        met too early for a moment, never too late.
        """
        for owner, recent in self._recent.items():
            _sum(self._earlier, owner).add(recent.jobs, recent.body_bytes)
        self._recent = {}
        self._stored = await jobs.pending()
        self._earlier = {}
        self._pool = None

    def _check_pool(self, body_bytes: int, verified: frozenset[OwnerId]) -> None:
        jobs, size = self._stored_pool(verified)
        size += body_bytes
        for part in (self._earlier, self._recent, self._under_way):
            more_jobs, more_bytes = _pooled(part, verified)
            jobs += more_jobs
            size += more_bytes
        if jobs >= self._limits.unverified_jobs or size > self._limits.unverified_bytes:
            raise OverloadedError(
                "the upstream has not accepted this credential yet, and what may be deferred "
                "before that is used up; it is being checked",
                retry_after_s=5,
                code="credential_unverified",
            )

    def _stored_pool(self, verified: frozenset[OwnerId]) -> tuple[int, int]:
        """Return how much of the pool is stored; counted once, since owners may be thousands."""
        known = self._pool
        if known is None or known.verified is not verified:
            known = self._pool = _StoredPool(verified, _pooled(self._stored, verified))
        return known.sums

    def _used(self, owner: OwnerId) -> tuple[int, int]:
        """Return the owner's jobs and bytes."""
        jobs = size = 0
        for part in (self._stored, self._earlier, self._recent, self._under_way):
            each = part.get(owner)
            if each is not None:
                jobs += each.jobs
                size += each.body_bytes
        return jobs, size


class Reservation:
    """One job, counted while the block makes it durable and, unless that fails, from then on."""

    __slots__ = ("_body_bytes", "_is_needed", "_owner", "_quota")

    def __init__(self, quota: Quota, owner: OwnerId, body_bytes: int) -> None:
        self._quota = quota
        self._owner = owner
        self._body_bytes = body_bytes
        self._is_needed = True

    def give_back(self) -> None:
        """Say that no job was made after all: it was there, and is counted."""
        self._is_needed = False

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        accepted = self._is_needed and kind is None
        self._quota.end(self._owner, self._body_bytes, accepted=accepted)


def _pooled(
    sums: Mapping[OwnerId, _Sum | Pending], verified: frozenset[OwnerId]
) -> tuple[int, int]:
    """Return how many of these jobs and bytes belong to owners who are not verified."""
    jobs = size = 0
    for owner, each in sums.items():
        if owner not in verified and owner != ANONYMOUS:
            jobs += each.jobs
            size += each.body_bytes
    return jobs, size


def _sum(sums: dict[OwnerId, _Sum], owner: OwnerId) -> _Sum:
    found = sums.get(owner)
    if found is None:
        found = sums[owner] = _Sum()
    return found
