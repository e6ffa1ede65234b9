"""Whose credentials are genuine, and how much each owner may have pending.

A token that no upstream has accepted yet may be anything. Until its upstream
accepts it, all such owners together share one small pool.

The path of a call reads copies in memory and never the store. They are as old as
the last pass, so a fleet may overshoot a bound by what it accepts between two.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import structlog

from proxy.core.errors import OverloadedError
from proxy.core.ids import CredentialId, OwnerId
from proxy.ports.clock import Clock
from proxy.ports.jobs import Credential, CredentialStore, JobStore, Pending
from proxy.services.owners import ANONYMOUS, Caller

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

_NOTHING: Final = Pending(0, 0)


class Quota:
    """How much is pending, and whether more may be accepted."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._stored: Mapping[OwnerId, Pending] = {}
        self._earlier: dict[OwnerId, Pending] = {}
        self._recent: dict[OwnerId, Pending] = {}
        self._under_way: dict[OwnerId, Pending] = {}

    @contextmanager
    def reserve(
        self, owner: OwnerId, body_bytes: int, *, verified: frozenset[OwnerId] | None
    ) -> Iterator[None]:
        """Count one more job while the block makes it durable, and from then on.

        `verified` is who is, if the owner is not and so takes from the pool.

        Raises:
            OverloadedError: if that is above a bound; nothing is counted then.
        """
        limits = self._limits
        used = self._used(owner)
        if used.jobs >= limits.owner_jobs or used.body_bytes + body_bytes > limits.owner_bytes:
            raise OverloadedError(
                f"{used.jobs} jobs with {used.body_bytes} bytes are pending; allowed are "
                f"{limits.owner_jobs} jobs and {limits.owner_bytes} bytes"
            )
        if verified is not None:
            self._check_pool(body_bytes, verified)
        one = Pending(1, body_bytes)
        _add(self._under_way, owner, one)
        try:
            yield
            _add(self._recent, owner, one)
        finally:
            _add(self._under_way, owner, Pending(-1, -body_bytes))
            if self._under_way[owner] == _NOTHING:
                del self._under_way[owner]

    async def refresh(self, jobs: JobStore) -> None:
        """Count anew what is pending.

        What is accepted while the store counts is in both counts until the next
        time: a bound may be met too early for a moment, never too late.
        """
        for owner, pending in self._recent.items():
            _add(self._earlier, owner, pending)
        self._recent = {}
        self._stored = await jobs.pending()
        self._earlier = {}

    def _check_pool(self, body_bytes: int, verified: frozenset[OwnerId]) -> None:
        parts = (self._stored, self._earlier, self._recent, self._under_way)
        owners = {owner for part in parts for owner in part} - verified - {ANONYMOUS}
        used = [self._used(owner) for owner in owners]
        jobs = sum(each.jobs for each in used)
        size = sum(each.body_bytes for each in used) + body_bytes
        if jobs >= self._limits.unverified_jobs or size > self._limits.unverified_bytes:
            raise OverloadedError(
                "the upstream has not accepted this credential yet, and what may be deferred "
                "before that is used up; it is being checked",
                retry_after_s=5,
                code="credential_unverified",
            )

    def _used(self, owner: OwnerId) -> Pending:
        parts = (self._stored, self._earlier, self._recent, self._under_way)
        found = [part[owner] for part in parts if owner in part]
        return Pending(sum(each.jobs for each in found), sum(each.body_bytes for each in found))


def _add(counts: dict[OwnerId, Pending], owner: OwnerId, more: Pending) -> None:
    before = counts.get(owner, _NOTHING)
    counts[owner] = Pending(before.jobs + more.jobs, before.body_bytes + more.body_bytes)


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

    @contextmanager
    def reserve(self, caller: Caller, body_bytes: int) -> Iterator[None]:
        """Count one more job of the caller, while it is made durable and from then on.

        A credential that is new is checked by the next pass.

        Raises:
            OverloadedError: if the caller, or all unverified ones, have too much pending.
        """
        verified = self._known.verified
        # Of an anonymous call nothing can be verified; that it is welcome is configured.
        pooled = not caller.anonymous and caller.owner not in verified
        with self._quota.reserve(caller.owner, body_bytes, verified=verified if pooled else None):
            if pooled:
                self._known.unverified.setdefault(caller.credential.id, caller.credential)
            yield

    def paused_at(self, credential_id: CredentialId) -> datetime | None:
        """Return since when the credential is paused, as far as is known here."""
        return self._known.paused.get(credential_id)

    @property
    def wants_news(self) -> bool:
        """Whether it matters at all that an upstream accepted some credential."""
        return bool(self._known.unverified or self._known.paused)

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
