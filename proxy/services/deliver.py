"""Tell webhooks of the ends of jobs, at least once each.

What is owed is in the store from the very moment of the end. Each endpoint has a courier of its
own, so that one which is silent holds up nobody else's notices, and a notice that was on its way
when its instance died is due again soon after.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Self

import structlog

from proxy.core.errors import ConfigError, StoreError
from proxy.core.fields import by_name, raw_headers
from proxy.core.job import Job
from proxy.core.notices import (
    Notice,
    Reached,
    endpoint_at,
    message_id,
    next_attempt,
    reached,
    signed_headers,
)
from proxy.core.retry_after import pause_asked_for
from proxy.core.upstream import Upstream
from proxy.ports.tasks import TaskOwner
from proxy.ports.upstream import (
    UpstreamClient,
    UpstreamRequest,
    UpstreamResponse,
    UpstreamUnavailableError,
)
from proxy.services.ground import Ground

log = structlog.get_logger()

AT_ONCE: Final = 8
"""Attempts at one endpoint beside each other, of each instance."""

FAILING_FROM: Final = 5
"""After so many failures in a row an endpoint is asked one at a time, until it answers."""

BODY_BYTES_MAX: Final = 64 << 10
BODY_TIMEOUT: Final = timedelta(seconds=1)
"""How much of an answer's body is read, and for how long: it says nothing to us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where one webhook is, and what its notices are signed with."""

    name: str
    upstream: Upstream
    target: str
    secrets: Sequence[bytes] = field(repr=False)
    timeout: timedelta
    """For one attempt in all."""

    @property
    def taken_for(self) -> timedelta:
        """How long a notice is reserved: for an attempt, and to write down what it came to.

        One that was on its way when its instance died comes that late.
        """
        return 1.5 * self.timeout

    @classmethod
    def at(cls, name: str, url: str, *, secrets: Sequence[bytes], timeout: timedelta) -> Self:
        """Return the endpoint at `url`.

        Raises:
            ConfigError: if it is no plain http(s) URL.
        """
        if not secrets:
            raise ConfigError(f"webhook {name}: without a secret anyone could sign as us")
        upstream, target = endpoint_at(url)
        return cls(
            name=name,
            upstream=upstream,
            target=target,
            secrets=tuple(secrets),
            timeout=timeout,
        )


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What one attempt came to."""

    outcome: Reached
    failure: str = ""
    """For people: `HTTP 503`, or what broke."""

    retry_after: timedelta | None = None


class Deliverer:
    """Has a courier for every configured webhook. `tasks` owns their rounds."""

    def __init__(
        self,
        ground: Ground,
        *,
        endpoints: Sequence[Endpoint],
        client: UpstreamClient,
        payload: Callable[[Job], bytes],
        jitter: Callable[[], float],
        tasks: TaskOwner,
    ) -> None:
        """`payload` is what is sent of a job: never its prompt or its result."""
        self._tasks = tasks
        self._couriers = [
            _Courier(ground, endpoint, client, payload, jitter) for endpoint in endpoints
        ]
        self._rounds: dict[_Courier, asyncio.Task[None]] = {}

    async def run_once(self) -> int:
        """Start a round for every courier that is not on one; return how many set out."""
        idle = [
            one for one in self._couriers if one not in self._rounds or self._rounds[one].done()
        ]
        for courier in idle:
            name = f"webhook {courier.endpoint.name}"
            self._rounds[courier] = self._tasks.create_task(courier.round(), name=name)
        return len(idle)

    def abandon(self) -> None:
        """Cut off what is on its way: it is due again after a while."""
        for round_ in self._rounds.values():
            round_.cancel()


class _Courier:
    """Brings one endpoint its notices."""

    def __init__(
        self,
        ground: Ground,
        endpoint: Endpoint,
        client: UpstreamClient,
        payload: Callable[[Job], bytes],
        jitter: Callable[[], float],
    ) -> None:
        self._ground = ground
        self.endpoint = endpoint
        self._client = client
        self._payload = payload
        self._jitter = jitter
        self._failures_in_a_row = 0

    async def round(self) -> None:
        """Send what is due until nothing is, or until the endpoint or the store fails."""
        try:
            while await self._some() and not self._is_failing:
                pass
        except StoreError as exc:
            log.warning("webhook.unread", webhook=self.endpoint.name, code=exc.code)

    @property
    def _is_failing(self) -> bool:
        return self._failures_in_a_row >= FAILING_FROM

    async def _some(self) -> int:
        """Send up to a chunk of what is due; return how many there were."""
        now = self._ground.now()
        taken = await self._ground.notices.take(
            self.endpoint.name,
            now=now,
            until=now + self.endpoint.taken_for,
            limit=1 if self._is_failing else AT_ONCE,
        )
        jobs, unread = await self._ground.readable([notice.job_id for notice in taken])
        known = {job.id: job for job in jobs}
        async with asyncio.TaskGroup() as attempts:
            for notice in taken:
                if notice.job_id in unread:
                    # It is due again when its time is up, and forgotten with its job.
                    continue
                attempts.create_task(self._care_for(notice, known.get(notice.job_id)))
        return len(taken)

    async def _care_for(self, notice: Notice, job: Job | None) -> None:
        try:
            await self._bring(notice, job)
        except StoreError as exc:
            # Sent or not, it is due again when its time is up: rather twice than never.
            name = self.endpoint.name
            log.warning("webhook.unrecorded", webhook=name, job_id=notice.job_id, code=exc.code)

    async def _bring(self, notice: Notice, job: Job | None) -> None:
        if job is None:
            # Deleted by its caller, or kept too short: there is nothing left to tell.
            await self._ground.notices.forget(notice)
            return
        attempt = await self._attempt(job)
        if attempt.outcome is Reached.DELIVERED:
            await self._arrived(notice)
        else:
            await self._failed(notice, attempt)

    async def _attempt(self, job: Job) -> _Attempt:
        try:
            async with asyncio.timeout(self.endpoint.timeout.total_seconds()):
                return await self._send(job)
        except TimeoutError:
            return _Attempt(
                Reached.TIMED_OUT, f"no answer within {self.endpoint.timeout.total_seconds():g} s"
            )
        except UpstreamUnavailableError as exc:
            return _Attempt(Reached.UNREACHABLE, f"{exc.phase.value} {exc.cause}")

    async def _send(self, job: Job) -> _Attempt:
        body = self._payload(job)
        fields = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "user-agent": "offramp-webhooks",
            "accept-encoding": "identity",
            **signed_headers(
                message_id(job.id), body, at=self._ground.now(), secrets=self.endpoint.secrets
            ),
        }
        upstream = self.endpoint.upstream
        response = await self._client.send(
            UpstreamRequest(
                upstream=upstream,
                method="POST",
                target=self.endpoint.target,
                headers=((b"host", upstream.host_header), *raw_headers(fields)),
                body=body,
            )
        )
        await _read_away(response)
        retry_after = by_name(response.headers).get("retry-after")
        pause = pause_asked_for(retry_after, now=self._ground.now())
        return _Attempt(reached(response.status), f"HTTP {response.status}", pause)

    async def _arrived(self, notice: Notice) -> None:
        self._failures_in_a_row = 0
        name = self.endpoint.name
        await self._ground.notices.delivered(notice, at=self._ground.now())
        self._ground.tally.count("webhook_delivered", webhook=name)
        log.debug(
            "webhook.delivered",
            webhook=name,
            job_id=notice.job_id,
            attempt=notice.attempts + 1,
        )

    async def _failed(self, notice: Notice, attempt: _Attempt) -> None:
        self._failures_in_a_row += 1
        now = self._ground.now()
        again_at = next_attempt(
            notice,
            attempt.outcome,
            now=now,
            jitter=self._jitter(),
            retry_after=attempt.retry_after,
        )
        await self._ground.notices.failed(
            notice, at=now, failure=attempt.failure, again_at=again_at
        )
        name = self.endpoint.name
        self._ground.tally.count("webhook_failed", webhook=name, outcome=attempt.outcome.value)
        log.warning(
            "webhook.failed",
            webhook=name,
            job_id=notice.job_id,
            attempt=notice.attempts + 1,
            reason=attempt.failure,
            again_at=again_at.isoformat() if again_at else None,
        )
        if again_at is None:
            self._ground.tally.count("webhook_given_up", webhook=name)
            log.error("webhook.given_up", webhook=name, job_id=notice.job_id)


async def _read_away(response: UpstreamResponse) -> None:
    """Read the body, if it is short, so that its connection can be used again."""
    try:
        # The status has said all: what becomes of the body changes nothing.
        with suppress(UpstreamUnavailableError, TimeoutError):
            async with asyncio.timeout(BODY_TIMEOUT.total_seconds()):
                size = 0
                while size < BODY_BYTES_MAX and (part := await response.next_chunk()):
                    size += len(part)
    finally:
        response.close()
