"""Whose credentials are genuine, and how much each owner may have pending.

A token that no upstream has accepted yet may be anything. Until its upstream
accepts it, all such owners together share one small pool.

The path of a call reads copies in memory and never the store. They are as old as
the last pass, so a fleet may overshoot a bound by what it accepts between two.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

import structlog

from proxy.core.errors import OverloadedError
from proxy.core.ids import ANONYMOUS, CredentialId, OwnerId
from proxy.ports.clock import Clock
from proxy.ports.jobs import Credential, CredentialStore, JobStore, Pending
from proxy.services.callers.owners import Caller

log = structlog.get_logger()


class Verdict(StrEnum):
    """What an upstream says about a credential when it is asked for something free."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    """It did not answer, or neither yes nor no."""


Verify = Callable[[Credential], Awaitable[Verdict]]
"""Asks the credential's upstream for its list of models. Bounded in time; raises nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much may be pending, that is accepted and not terminal."""

    owner_jobs: int = 1_000_000
    owner_bytes: int = 4 << 30
    unverified_jobs: int = 1_000
    """Of all unverified owners together."""

    unverified_bytes: int = 64_000_000


CHECKS_PER_PASS: Final = 20
"""How many credentials one pass asks about, one after the other."""

RECHECK_AFTER: Final[Mapping[Verdict, timedelta]] = {
    # A new key may take minutes to be known everywhere.
    Verdict.REFUSED: timedelta(minutes=5),
    Verdict.UNKNOWN: timedelta(seconds=30),
}


@dataclass(slots=True)
class _Sum:
    """How much of one owner's; changed in place, since every accept does so."""

    jobs: int = 0
    body_bytes: int = 0

    def add(self, jobs: int, body_bytes: int) -> None:
        self.jobs += jobs
        self.body_bytes += body_bytes


class _StoredPool(NamedTuple):
    """What is stored of the pool, for a set of owners that take nothing from it."""

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
        """Count one more job, which the block of the reservation makes durable.

        `verified` is who is, if the owner is not and so takes from the pool.

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
        """Count anew what is pending.

        What is accepted while the store counts is in both counts until the next
        time: a bound may be met too early for a moment, never too late.
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
    """One job that is counted while the block makes it durable; and later, unless that fails."""

    __slots__ = ("_body_bytes", "_owner", "_quota")

    def __init__(self, quota: Quota, owner: OwnerId, body_bytes: int) -> None:
        self._quota = quota
        self._owner = owner
        self._body_bytes = body_bytes

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._quota.end(self._owner, self._body_bytes, accepted=kind is None)


def _pooled(
    sums: Mapping[OwnerId, _Sum | Pending], verified: frozenset[OwnerId]
) -> tuple[int, int]:
    """Return how many jobs and bytes of it are of owners who are not verified."""
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


@dataclass(slots=True)
class _Known:
    """What the last pass, and this instance since, know of all credentials."""

    verified: frozenset[OwnerId] = frozenset()
    paused: dict[CredentialId, datetime] = field(default_factory=dict)
    unverified: dict[CredentialId, Credential] = field(default_factory=dict)


class Accounts:
    """What is known of the owners. `run_once` and `verify_once` are passes of some seconds."""

    def __init__(
        self,
        *,
        credentials: CredentialStore,
        jobs: JobStore,
        clock: Clock,
        verify: Verify,
        limits: Limits,
    ) -> None:
        self._credentials = credentials
        self._jobs = jobs
        self._clock = clock
        self._verify = verify
        self._quota = Quota(limits)
        self._known = _Known()
        self._recheck_at: dict[CredentialId, datetime] = {}
        self._accepted: set[CredentialId] = set()

    def reserve(self, caller: Caller, body_bytes: int) -> Reservation:
        """Count one more job of the caller, while it is made durable and from then on.

        A credential that is new is checked by the next pass.

        Raises:
            OverloadedError: if the caller, or all unverified ones, have too much pending.
        """
        known = self._known
        # Of an anonymous call nothing can be verified; that it is welcome is configured.
        known_here = caller.anonymous or caller.is_vouched
        pooled = not known_here and caller.owner not in known.verified
        verified = known.verified if pooled else None
        reservation = self._quota.reserve(caller.owner, body_bytes, verified=verified)
        if pooled:
            known.unverified.setdefault(caller.credential.id, caller.credential)
        return reservation

    def paused_at(self, credential_id: CredentialId) -> datetime | None:
        """Return since when the credential is paused, as far as is known here."""
        return self._known.paused.get(credential_id)

    @property
    def wants_news(self) -> bool:
        """Whether it matters at all that an upstream accepted some credential."""
        return bool(self._known.unverified or self._known.paused)

    def wants_news_of(self, credential_id: CredentialId) -> bool:
        """Return whether it matters that an upstream accepted this one. Never blocks."""
        known = self._known
        return credential_id in known.unverified or credential_id in known.paused

    def note_accepted(self, credential_id: CredentialId) -> None:
        """Note that an upstream just served a call of it. Never blocks."""
        credential = self._known.unverified.pop(credential_id, None)
        if credential is not None:
            self._known.verified |= {credential.owner}
        if credential is not None or self._known.paused.pop(credential_id, None) is not None:
            self._accepted.add(credential_id)

    async def run_once(self) -> int:
        """Read anew who is verified, who is paused and what is pending; return how many owners.

        Raises:
            StoreError: if the store is away; what was known stays.
        """
        await self._write_accepted()
        credentials = await self._credentials.all()
        await self._quota.refresh(self._jobs)
        verified = frozenset(one.owner for one in credentials if one.succeeded_at is not None)
        self._known = _Known(
            verified,
            {one.id: one.paused_at for one in credentials if one.paused_at is not None},
            {one.id: one for one in credentials if one.owner not in verified and one.headers},
        )
        return len(verified)

    async def verify_once(self) -> int:
        """Ask the upstreams about some credentials that nobody vouched for; return how many.

        Raises:
            StoreError: if the store is away.
        """
        await self._write_accepted()
        now = self._clock.now()
        waiting = self._known.unverified
        self._recheck_at = {each: at for each, at in self._recheck_at.items() if each in waiting}
        due = [one for one in waiting.values() if self._recheck_at.get(one.id, now) <= now]
        for credential in due[:CHECKS_PER_PASS]:
            verdict = await self._verify(credential)
            log.info("credential.checked", upstream=credential.upstream, verdict=verdict.value)
            if verdict is Verdict.ACCEPTED:
                self.note_accepted(credential.id)
            else:
                self._recheck_at[credential.id] = now + RECHECK_AFTER[verdict]
        await self._write_accepted()
        return len(due[:CHECKS_PER_PASS])

    async def _write_accepted(self) -> None:
        while self._accepted:
            credential_id = next(iter(self._accepted))
            await self._credentials.accepted(credential_id, at=self._clock.now())
            self._accepted.discard(credential_id)
