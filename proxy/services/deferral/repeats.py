"""Give the repeat of a call the job that the first call made, before anything is decided.

The rule is `proxy.core.repeats`. Here is only when it is worth asking, and that
asking never harms a call: it is bounded in time and never raises.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import structlog

from policies.fields import Run
from proxy.core.errors import ProxyError
from proxy.core.ids import JobId, OwnerId
from proxy.core.job import Job
from proxy.core.repeats import CLAIM_WINDOW
from proxy.ports.clock import Clock
from proxy.ports.jobs import DeliveryStore, JobStore
from proxy.ports.tally import Tally
from proxy.services.callers.owners import owns
from proxy.services.pauses import keep_in_mind

log = structlog.get_logger()

CLAIM_TIMEOUT_S: Final = 0.05
"""How long asking may delay a call: nobody notices it, and a healthy store needs 2 ms."""

PATIENT_CLAIM_TIMEOUT_S: Final = 5.0
"""The same for a call that will not be forwarded anyway. Without an answer, one that is deferred
would be bought a second time, and one that is refused would lose its job."""

BROKEN_HERE_S: Final = 60.0
"""How long an owner is remembered whose connection broke here: the store may not name it yet."""

BROKEN_IN_RUN_S: Final = CLAIM_WINDOW.total_seconds()
"""The same for a session of a run, which no store names."""


class LeftJob(NamedTuple):
    """The job of a call whose connection broke."""

    id: JobId
    fingerprint: str
    """Not always the call's own: by its name it may have been given a job that was made with a
    tag, without, or by an earlier version."""


@dataclass(slots=True)
class _Breaks:
    """The calls of a session whose connections broke here, and that were not repeated since."""

    until: float = 0.0
    calls: dict[str, list[LeftJob]] = field(default_factory=dict)
    """The jobs that they left, by the fingerprint of each call."""


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
        ends_sessions: bool = False,
    ) -> None:
        """`on_claimed` is told of each job that a repeat takes over.

        `ends_sessions` says that runs which name no session begin one with this process.
        """
        self._deliveries = deliveries
        self._jobs = jobs
        self._clock = clock
        self._tally = tally
        self._timeout_s = timeout_s
        self._on_claimed = on_claimed
        self._ends_sessions = ends_sessions
        self._claimable: frozenset[OwnerId] = frozenset()
        self._broken_here: dict[OwnerId, float] = {}
        self._broken_in_runs: dict[tuple[OwnerId, Run], _Breaks] = {}

    @property
    def expects_any(self) -> bool:
        """Whether a call, of any owner, could be a repeat although it counts no retries."""
        return bool(self._claimable or self._broken_here or self._broken_in_runs)

    def expects(self, owner: OwnerId, run: Run | None = None) -> bool:
        """Return whether a call of `owner` that counts no retries could claim a job. Never blocks.

        One that counts them may always ask.
        """
        if run is not None and self._is_session(run):
            return (owner, run) in self._broken_in_runs
        return owner in self._claimable or owner in self._broken_here

    def note_broken(
        self, owner: OwnerId, fingerprint: str, left: LeftJob, run: Run | None = None
    ) -> None:
        """Note that the connection of a call broke here before its answer was out."""
        now = self._clock.monotonic()
        if run is None or not self._is_session(run):
            self._broken_here[owner] = now + BROKEN_HERE_S
            return
        breaks = self._broken_in_runs.setdefault((owner, run), _Breaks())
        breaks.until = now + BROKEN_IN_RUN_S
        jobs = breaks.calls.get(fingerprint, [])
        jobs.append(left)
        # A script may leave every call, and repeat none.
        keep_in_mind(breaks.calls, fingerprint, jobs)

    def _is_session(self, run: Run) -> bool:
        """Return whether calls of the run are counted anew when its script starts again.

        The n-th occurrence of a call in a session is the n-th job of its run, delivered or
        not: what broke in an earlier session is found by counting. Claimed besides, one job
        would answer two occurrences. So in a session its own breaks alone are repeated.
        """
        return run.session is not None or self._ends_sessions

    def _spend_break(self, owner: OwnerId, fingerprint: str, run: Run) -> LeftJob | None:
        """Count a call as the repeat of one alike that broke in its session, if one did.

        Returns the job that this one left.
        """
        breaks = self._broken_in_runs.get((owner, run))
        if breaks is None or fingerprint not in breaks.calls:
            return None
        left = breaks.calls[fingerprint]
        spent = left.pop()
        if not left:
            del breaks.calls[fingerprint]
        if not breaks.calls:
            del self._broken_in_runs[owner, run]
        return spent

    async def claim(
        self,
        owner: OwnerId,
        fingerprint: str,
        *,
        retry_count: int,
        run: Run | None = None,
        is_forwarded: bool = True,
    ) -> Job | None:
        """Return the job that this repeat takes over, or nothing if it is a new call.

        `is_forwarded` says that the call goes to its provider if it claims none. A store
        that fails or is silent means nothing, and is counted: the call goes its
        way. A claim whose answer came too late ends with its lease.
        """
        left = None
        if run is not None and self._is_session(run):
            left = self._spend_break(owner, fingerprint, run)
            if left is None and retry_count == 0:
                return None
        self._tally.count("claims")
        timeout_s = self._timeout_s if is_forwarded else PATIENT_CLAIM_TIMEOUT_S
        try:
            async with asyncio.timeout(timeout_s):
                job = await self._claimed(
                    owner, fingerprint if left is None else left.fingerprint, retry_count, left
                )
                left = None
                return job
        except TimeoutError:
            reason = "timeout"
        except ProxyError as exc:
            reason = exc.code
        finally:
            if left is not None:
                # Nothing was found out: also a caller who leaves meanwhile may come again.
                self.note_broken(owner, fingerprint, left, run)
        self._tally.count("claims_failed", reason=reason)
        log.warning("claim.failed", reason=reason)
        return None

    async def _claimed(
        self, owner: OwnerId, fingerprint: str, retry_count: int, left: LeftJob | None
    ) -> Job | None:
        """Return the job that the store gives the repeat, or else the one that its call `left`."""
        job_id = await self._deliveries.claim(
            owner, fingerprint, retry_count=retry_count, now=self._clock.now()
        )
        if job_id is None and left is not None and retry_count:
            # What an earlier session was given long ago is no delivery any more. One
            # that counts no retries may as well be the next call of its kind.
            job_id = left.id
        return await self._taken(job_id, owner, fingerprint, retry_count)

    async def _taken(
        self, job_id: JobId | None, owner: OwnerId, fingerprint: str, retry_count: int
    ) -> Job | None:
        """Return the job that the repeat takes over, if it is there and the owner's."""
        found = await self._jobs.get_many([job_id]) if job_id is not None else ()
        if not found:
            return None
        (job,) = found
        if not owns(job.owner, (owner,)) or job.fingerprint != fingerprint:
            # Never serve what does not say itself whose it is, whatever was asked for.
            log.error("claim.mismatched", job_id=job.id)
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
        # First, since most connections break while the store is away.
        now = self._clock.monotonic()
        self._broken_here = {each: end for each, end in self._broken_here.items() if end > now}
        self._broken_in_runs = {
            each: breaks for each, breaks in self._broken_in_runs.items() if breaks.until > now
        }
        self._claimable = await self._deliveries.claimable_owners(now=self._clock.now())
        return len(self._claimable)
