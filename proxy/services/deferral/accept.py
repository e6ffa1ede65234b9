"""Make a job of a call: durable before anybody is told, and one job for one idempotency key."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import structlog

from proxy.core.body import ParsedBody
from proxy.core.choice import LaneFacts, choose_lane
from proxy.core.dialects import Place, pick_headers
from proxy.core.errors import (
    AcceptUnclearError,
    CallerError,
    OverloadedError,
    StoreError,
)
from proxy.core.ids import ANONYMOUS, RANDOM_BYTES, mint_job_id, shard_for
from proxy.core.job import AnswerMode, Job
from proxy.core.lanes import BatchKey, Lane, LaneChoice, rough_duration
from proxy.core.repeats import WAITER_LEASE
from proxy.ports.clock import Clock
from proxy.ports.jobs import Acceptance, JobStore, NewJob
from proxy.ports.passes import Wake, wake_nobody
from proxy.ports.provider import Provider
from proxy.services.callers.accounts import Accounts
from proxy.services.callers.owners import Caller
from proxy.services.deferral.admission import Admitted, admit
from proxy.services.deferral.keys import IdempotencyKeys
from proxy.services.deferral.terms import Chosen, DeferredCall, LastChoice, Terms
from proxy.services.outlook import Outlook

log = structlog.get_logger()

LINE_FRAME_BYTES: Final = 512
"""Kept free in a line for what stands around the body: ID, method and path."""

CHOICE_HOLDS_S: Final = 1.0
"""How long calls that are alike get the same lane without a fresh look. What is known of queues and
turnarounds is as old as the last pass anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeferralSettings:
    """What the operator configured about deferring."""

    default_deadline: timedelta = timedelta(hours=26)
    """A provider's window of 24 h, and time to act after it."""

    max_body_bytes: int = 32 * 1024 * 1024
    """For any call; a provider's own limit on a line applies as well."""

    linger: timedelta = timedelta(seconds=60)
    """How long a job waits for company; the next flush should come by then."""

    ephemeral: bool = False
    """Whether the store goes with the machine: then a job ID would promise too much."""

    anonymous: frozenset[str] = frozenset()
    """Upstreams at which calls without a credential may be deferred."""

    webhooks: Mapping[str, frozenset[str] | None] = field(default_factory=dict)
    """Names of endpoints, and the owners that each serves; all of them if it is `None`."""


class Accepted(NamedTuple):
    """The job that stands for a call."""

    job: Job
    created: bool
    """False if its idempotency key knew it already."""

    facts: LaneFacts | None
    """What its lane was chosen by, if it was chosen just now."""


class Acceptor:
    """Accepts calls."""

    def __init__(  # noqa: PLR0913 - collaborators, each by its name
        self,
        *,
        jobs: JobStore,
        outlook: Outlook,
        keys: IdempotencyKeys,
        providers: Mapping[str, Provider],
        accounts: Accounts,
        clock: Clock,
        random: Callable[[int], bytes],
        settings: DeferralSettings,
        wake: Wake = wake_nobody,
    ) -> None:
        """`providers` has the batch API of each upstream that has one, by its name."""
        self._jobs = jobs
        self._outlook = outlook
        self._keys = keys
        self._wake = wake
        self._providers = providers
        self._accounts = accounts
        self._clock = clock
        self._random = random
        self._settings = settings

    def admit(self, parsed: ParsedBody, place: Place, *, upstream: str) -> Admitted:
        """Return what the job needs of the body, which must fit into the upstream's batches.

        Raises:
            CallerError: in the provider's terms, if it would refuse the call anyway.
        """
        limit = self._settings.max_body_bytes
        provider = self._providers.get(upstream)
        if provider is not None and place.endpoint.batched:
            line = provider.limits(place.endpoint.path).max_line_bytes
            limit = min(limit, line - LINE_FRAME_BYTES)
        return admit(parsed, place, max_line_bytes=limit)

    async def accept(
        self, call: DeferredCall, on_cut: Callable[[Job], None] = lambda _job: None
    ) -> Accepted:
        """Make the call a durable job, or return the one that its key stands for.

        `on_cut` is told of the job if this is cancelled while it is being made: it may be
        durable then, or not.

        Raises:
            CallerError: if it cannot be deferred as it is; nothing was written.
            OverloadedError: if too much is pending; nothing was written.
            AcceptUnclearError: if the store failed amid it: the job may be durable, or not.
            StoreError: if it failed before; nothing was written.
        """
        now, terms = self._clock.now(), call.terms
        deadline = self._deadline(terms.deadline, now)
        self._check(terms, deadline)
        chosen = self._chosen(terms, call.admitted, deadline, now)
        try:
            reservation = self._accounts.reserve(terms.caller, len(call.admitted.line_body))
        except OverloadedError:
            # There is no room for another job, but the key may stand for one that is there.
            known = await self._known(terms)
            if known is None:
                raise
            return _accepted(Acceptance(known, created=False), call)
        with reservation:
            # Only now: a call that was turned away is no occurrence of its run.
            key = await self._keys.take(call)
            job = self._job(call, chosen, deadline, now, key or call.fingerprint)
            new = NewJob(
                job=job,
                body=call.admitted.line_body,
                retry_count=terms.retry_count,
                waiter_until=now + WAITER_LEASE,
                idempotency_key=key,
                credential=terms.caller.credential,
            )
            try:
                acceptance = await self._jobs.accept(new)
            except StoreError as exc:
                # Also where something is damaged: that may be met amid the work.
                raise AcceptUnclearError(exc.message, job_id=job.id) from exc
            except asyncio.CancelledError:
                on_cut(job)
                raise
            if not acceptance.created:
                reservation.give_back()
        if acceptance.created:
            self._wake_for(job)
        return _accepted(acceptance, call, chosen.facts)

    async def _known(self, terms: Terms) -> Job | None:
        """Return the job that the caller's key stands for already.

        A run's calls are not looked for: to look is to count them.
        """
        key = self._keys.given(terms)
        return await self._jobs.find_keyed(terms.caller.owner, key) if key is not None else None

    def _wake_for(self, job: Job) -> None:
        """Bring forward the pass that the job waits for."""
        if job.lane is not Lane.BATCH:
            self._wake("escalate")
        else:
            self._wake("flush", within=self._settings.linger)

    def _deadline(self, asked: timedelta | datetime | None, now: datetime) -> datetime:
        if isinstance(asked, datetime):
            return asked
        return now + (self._settings.default_deadline if asked is None else asked)

    def _check(self, terms: Terms, deadline: datetime) -> None:
        caller, settings = terms.caller, self._settings
        upstream = caller.credential.upstream
        if settings.ephemeral and terms.answer is not AnswerMode.WAIT:
            raise CallerError(
                "jobs are not kept durably here, so a call can only be deferred with "
                "`X-Deferrable: wait`",
                param="X-Deferrable",
                code="not_durable",
            )
        if caller.anonymous and upstream not in settings.anonymous:
            raise CallerError(
                f"without a credential nothing can be deferred at {upstream!r}, "
                "unless it is configured with `anonymous: true`",
                code="credential_required",
            )
        if caller.twofold is not None:
            # A job is made again with one field of each name, and is its owner's alone.
            raise CallerError(
                f"{caller.twofold}: two values that differ are not allowed in a deferred call; "
                "allowed: one value",
                param=caller.twofold,
                code="bad_header",
            )
        if caller.expires_at is not None and caller.expires_at < deadline:
            raise CallerError(
                f"the token expires at {caller.expires_at:%Y-%m-%dT%H:%M:%SZ}, before the "
                f"deadline {deadline:%Y-%m-%dT%H:%M:%SZ}: ask for an earlier deadline, "
                "or use a credential that lasts",
                param="X-Deferrable-Deadline",
                code="credential_expires",
            )
        if terms.webhook is not None:
            self._check_webhook(terms.webhook, caller)

    def _check_webhook(self, name: str, caller: Caller) -> None:
        owners = self._settings.webhooks.get(name, frozenset())
        if owners is not None and owners.isdisjoint(caller.names):
            # One answer for both, so that nobody learns the names of others.
            raise CallerError(
                f"X-Deferrable-Webhook: no webhook {name!r} is configured for this caller",
                param="X-Deferrable-Webhook",
                code="unknown_webhook",
            )

    def _chosen(
        self, terms: Terms, admitted: Admitted, deadline: datetime, now: datetime
    ) -> Chosen:
        """Return the lane for the job; a choice made a moment ago for one like it holds."""
        model, fits = admitted.model, admitted.fits_a_batch
        alike = (model, fits, deadline - now, self._outlook.changes)
        last, moment = terms.last, self._clock.monotonic()
        if last is not None and last.alike == alike and moment < last.until:
            return last.chosen
        key = self._key(terms, model)
        choice, facts = self._choose(terms, fits, key, deadline, now)
        chosen = Chosen(choice, choice.key_for(key), facts)
        terms.last = LastChoice(alike, moment + CHOICE_HOLDS_S, chosen)
        return chosen

    def _choose(
        self, terms: Terms, fits: bool, key: BatchKey, deadline: datetime, now: datetime
    ) -> tuple[LaneChoice, LaneFacts | None]:
        """Return the lane and, if there was a choice, the facts behind it."""
        endpoint = terms.endpoint
        if terms.lane is Lane.INTERACTIVE:
            return LaneChoice(Lane.INTERACTIVE, f"preferred by {terms.decided_by}"), None
        if endpoint.batched and not terms.dialect.is_idle_query(terms.target.partition("?")[2]):
            return LaneChoice(Lane.INTERACTIVE, "a batch cannot carry the query of the call"), None
        if endpoint.batched and not fits:
            return LaneChoice(Lane.INTERACTIVE, "a batch refuses a field of the body"), None
        facts = self._outlook.facts(key, alone=terms.alone)
        choice = choose_lane(deadline, facts, now=now)
        paused_at = self._accounts.paused_at(key.credential)
        if paused_at is None:
            return choice, facts
        since = rough_duration(now - paused_at)
        reason = f"{choice.reason}; the upstream refuses the credential since {since}"
        return replace(choice, reason=reason), facts

    def _key(self, terms: Terms, model: str) -> BatchKey:
        """Return the key of the call's jobs in the batch lane."""
        credential = terms.caller.credential
        return BatchKey(
            lane=Lane.BATCH,
            upstream=credential.upstream,
            credential=credential.id,
            endpoint=terms.endpoint.path,
            model=model,
            headers=pick_headers(terms.dialect.batch_headers, terms.headers),
        )

    def _job(
        self, call: DeferredCall, chosen: Chosen, deadline: datetime, now: datetime, sharded_by: str
    ) -> Job:
        """Return the job of the call; calls that may share one job are `sharded_by` the same."""
        terms, admitted = call.terms, call.admitted
        return Job(
            id=mint_job_id(now, shard=shard_for(sharded_by), random=self._random(RANDOM_BYTES)),
            owner=terms.caller.owner,
            accepted_at=now,
            deadline=deadline,
            key=chosen.key,
            lane=chosen.choice.lane,
            lane_reason=chosen.choice.reason,
            target=terms.target,
            answer=terms.answer,
            decided_by=terms.decided_by,
            tags=terms.tags,
            webhook=terms.webhook,
            fingerprint=call.fingerprint,
            body_bytes=len(admitted.line_body),
            tokens=admitted.tokens,
            affinity=admitted.affinity,
            headers=terms.direct_headers,
        )


def _accepted(
    acceptance: Acceptance, call: DeferredCall, facts: LaneFacts | None = None
) -> Accepted:
    """Return what the caller is told; `facts` are those that a new job's lane was chosen by."""
    _check_same(acceptance, call)
    _log_accepted(acceptance, call.terms)
    return Accepted(acceptance.job, acceptance.created, facts if acceptance.created else None)


def _check_same(acceptance: Acceptance, call: DeferredCall) -> None:
    # Earlier versions made fingerprints without the name: theirs is `call.content`.
    known = acceptance.job.fingerprint
    if acceptance.created or known in (call.fingerprint, call.content) or known == call.retagged():
        return
    # Without a credential, knowing a job's ID is all it takes to read the job, and two
    # anonymous callers may choose the same key: the ID of the other's job stays untold.
    whose = "" if acceptance.job.owner == ANONYMOUS else f", that of job {acceptance.job.id}"
    raise CallerError(
        f"the idempotency key stands for another call{whose}",
        param="Idempotency-Key",
        code="idempotency_key_reused",
        http_status=422,
    )


def _log_accepted(acceptance: Acceptance, terms: Terms) -> None:
    if terms.answer is not AnswerMode.WAIT:
        # The line of the call says it all, and comes at once.
        return
    job = acceptance.job
    log.info(
        "job.accepted",
        job_id=job.id,
        created=acceptance.created,
        owner=job.owner,
        upstream=job.key.upstream,
        endpoint=job.key.endpoint,
        model=job.key.model,
        lane=job.lane.value,
        reason=job.lane_reason,
        decided_by=terms.decided_by,
        answer=terms.answer.value,
        deadline=job.deadline.isoformat(),
        body_bytes=job.body_bytes,
        tokens=job.tokens,
    )
