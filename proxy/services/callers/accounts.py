"""Whose credentials are genuine, by what upstreams said, and so which bounds apply to whom.

The path of a call reads copies in memory and never the store. They are as old as
the last pass.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import structlog

from proxy.core.ids import CredentialId, OwnerId
from proxy.ports.clock import Clock
from proxy.ports.jobs import Credential, CredentialStore, JobStore
from proxy.services.callers.owners import Caller
from proxy.services.callers.quota import Limits, Quota, Reservation

log = structlog.get_logger()


class CredentialVerdict(StrEnum):
    """What an upstream says about a credential when it is asked for something free."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    """It did not answer, or neither yes nor no."""


Verify = Callable[[Credential], Awaitable[CredentialVerdict]]
"""Asks the credential's upstream for its list of models. Bounded in time; raises nothing."""


CHECKS_PER_PASS: Final = 20
"""How many credentials one pass asks about, one after the other."""

RECHECK_AFTER: Final[Mapping[CredentialVerdict, timedelta]] = {
    # A new key may take minutes to be known everywhere.
    CredentialVerdict.REFUSED: timedelta(minutes=5),
    CredentialVerdict.UNKNOWN: timedelta(seconds=30),
}


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
        # An anonymous call has nothing to verify; the configuration says that it is welcome.
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

    def wants_news_of(self, caller: Callable[[], Caller]) -> bool:
        """Return whether it matters that an upstream accepted this one's. Never blocks.

        `caller`, which may have to hash a token, is asked only while some credential matters.
        """
        if not self.wants_news:
            return False
        known, credential_id = self._known, caller().credential.id
        return credential_id in known.unverified or credential_id in known.paused

    def note_accepted(self, credential_id: CredentialId) -> None:
        """Note that an upstream just served a call of it. Never blocks."""
        credential = self._known.unverified.pop(credential_id, None)
        paused_at = self._known.paused.pop(credential_id, None)
        if credential is not None:
            self._known.verified |= {credential.owner}
        if credential is not None or paused_at is not None:
            self._accepted.add(credential_id)

    async def run_once(self) -> int:
        """Read who is verified, who is paused and what is pending; return the number of owners.

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
            if verdict is CredentialVerdict.ACCEPTED:
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
