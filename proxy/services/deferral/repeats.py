"""Give a repeat of a call the job that the call made, before anything is decided.

The rule is `proxy.core.repeats`. Here is only when it is worth asking, and that
asking never harms a call: it is bounded in time and never raises.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from proxy.core.errors import ProxyError
from proxy.core.ids import JobId, OwnerId
from proxy.core.job import Job
from proxy.ports.clock import Clock
from proxy.ports.jobs import DeliveryStore, JobStore
from proxy.ports.tally import Tally
from proxy.services.callers.owners import owns

log = structlog.get_logger()

CLAIM_TIMEOUT_S: Final = 0.05
"""What a call may lose by asking: nobody notices it, and a store in health needs 2 ms."""

PATIENT_CLAIM_TIMEOUT_S: Final = 5.0
"""The same for a call that is not forwarded in any case. Without an answer one that is
deferred would be bought a second time, and one that is refused now would lose its job."""

BROKEN_HERE_S: Final = 60.0
"""How long an owner is kept in mind whom the store may not name yet, or any more."""


class Repeats:
    """Claims jobs for repeats. `run_once` is a pass of about a second."""

    def __init__(
        self,
        *,
        deliveries: DeliveryStore,
        jobs: JobStore,
        clock: Clock,
        tally: Tally,
        timeout_s: float = CLAIM_TIMEOUT_S,
        on_claimed: Callable[[JobId], None] = lambda _: None,
    ) -> None:
        """`on_claimed` is told of each job that a repeat takes over."""
        self._deliveries = deliveries
        self._jobs = jobs
        self._clock = clock
        self._tally = tally
        self._timeout_s = timeout_s
        self._on_claimed = on_claimed
        self._claimable: frozenset[OwnerId] = frozenset()
        self._broken_here: dict[OwnerId, float] = {}

    @property
    def expects_any(self) -> bool:
        """Whether a call that does not name itself a retry could be one, of whomever."""
        return bool(self._claimable or self._broken_here)

    def expects(self, owner: OwnerId, *, retry_count: int) -> bool:
        """Return whether a call of `owner` is to be offered a job. Never blocks."""
        return retry_count >= 1 or owner in self._claimable or owner in self._broken_here

    def note_broken(self, owner: OwnerId) -> None:
        """Note that a connection broke here before its answer was out."""
        self._broken_here[owner] = self._clock.monotonic() + BROKEN_HERE_S

    async def claim(
        self, owner: OwnerId, fingerprint: str, *, retry_count: int, is_forwarded: bool = True
    ) -> Job | None:
        """Return the job that this repeat takes over, or nothing if it is a new call.

        `is_forwarded` says that the call goes to its provider if it claims none. A store
        that fails or is silent means nothing, and is counted: the call goes its
        way. A claim whose answer came too late ends with its lease.
        """
        self._tally.count("claims")
        timeout_s = self._timeout_s if is_forwarded else PATIENT_CLAIM_TIMEOUT_S
        try:
            async with asyncio.timeout(timeout_s):
                return await self._claim(owner, fingerprint, retry_count)
        except TimeoutError:
            reason = "timeout"
        except ProxyError as exc:
            reason = exc.code
        self._tally.count("claims_failed", reason=reason)
        log.warning("claim.failed", reason=reason)
        return None

    async def _claim(self, owner: OwnerId, fingerprint: str, retry_count: int) -> Job | None:
        now = self._clock.now()
        job_id = await self._deliveries.claim(owner, fingerprint, retry_count=retry_count, now=now)
        if job_id is None:
            return None
        job = await self._jobs.get(job_id)
        if not owns(job.owner, (owner,)) or job.fingerprint != fingerprint:
            # Never serve what does not say itself whose it is, whatever was asked for.
            log.error("claim.mismatched", job_id=job_id)
            return None
        self._on_claimed(job.id)
        self._tally.count("job_claimed")
        log.info("job.claimed", job_id=job.id, retry_count=retry_count)
        return job

    async def run_once(self) -> int:
        """Read anew whose jobs can be claimed; return how many owners those are.

        Raises:
            StoreError: if the store is away; what was known stays.
        """
        self._claimable = await self._deliveries.claimable_owners(now=self._clock.now())
        now = self._clock.monotonic()
        self._broken_here = {each: end for each, end in self._broken_here.items() if end > now}
        return len(self._claimable)
