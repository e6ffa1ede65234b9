"""Providers under a day's weather, with one book of what they billed."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count

from proxy.core.errors import ProviderRejectedError, ProviderUnavailableError
from proxy.core.ids import BatchId
from proxy.ports.clock import Clock
from proxy.ports.jobs import Credential
from proxy.ports.provider import (
    BatchLimits,
    LineKind,
    ProviderBatch,
    ProviderBatchState,
    ResultLine,
    Submission,
)
from proxy.ports.upstream import Phase, UpstreamRequest, UpstreamUnavailableError
from tests.helpers.fake_provider import FakeResponse
from tests.simulation.day.weather import Weather

HALF, FULL = 0.5, 1.0


@dataclass(slots=True)
class Bill:
    """What was billed, in tokens at list price, and how often each job was bought."""

    paid: float = 0.0
    bought: Counter[int] = field(default_factory=Counter)
    by_lane: Counter[str] = field(default_factory=Counter)

    def charge(self, body: bytes, share: float, lane: str) -> None:
        call = json.loads(body)
        self.paid += share * call["tokens"]
        self.bought[call["number"]] += 1
        self.by_lane[lane] += 1


@dataclass(slots=True)
class _Batch:
    id: str
    ours: BatchId
    lines: Sequence[tuple[str, bytes]]
    created_at: datetime
    takes: timedelta
    tokens: int
    error: str | None = None
    cancelled_at: datetime | None = None
    ends_at: datetime = field(init=False)
    results: Sequence[ResultLine] | None = None

    def __post_init__(self) -> None:
        self.ends_at = self.created_at + self.takes


class DayProvider:
    """A batch API under the weather of its upstream."""

    def __init__(self, weather: Weather, clock: Clock, bill: Bill) -> None:
        self._weather = weather
        self._clock = clock
        self._bill = bill
        self._files: dict[str, bytes] = {}
        self._batches: dict[str, _Batch] = {}
        self._numbers = count(1)

    def limits(self, endpoint: str) -> BatchLimits:
        return BatchLimits(max_requests=50_000, max_bytes=100_000_000, max_line_bytes=1_000_000)

    def frame(self, custom_id: str, endpoint: str) -> tuple[bytes, bytes]:
        return b'{"custom_id":"%s","body":' % custom_id.encode(), b"}\n"

    async def upload(self, credential: Credential, submission: Submission) -> str | None:
        self._reach()
        file_id = f"file-{next(self._numbers)}"
        self._files[file_id] = b"".join([chunk async for chunk in submission.lines()])
        return file_id

    async def find_upload(self, credential: Credential, submission: Submission) -> str | None:
        self._reach()
        return None

    async def create(
        self, credential: Credential, submission: Submission, file_id: str | None
    ) -> ProviderBatch:
        self._reach()
        assert file_id is not None
        now = self._clock.now()
        lines = [_line(line) for line in self._files[file_id].splitlines()]
        tokens = sum(json.loads(body)["tokens"] for _, body in lines)
        batch = _Batch(
            f"batch-{next(self._numbers)}",
            submission.batch_id,
            lines,
            now,
            self._weather.turnaround(now),
            tokens,
        )
        most = self._weather.max_tokens
        if most is not None and self._enqueued(now) + tokens > most:
            batch.error, batch.ends_at = "token_limit_exceeded", now
        self._batches[batch.id] = batch
        return self._view(batch)

    def _enqueued(self, now: datetime) -> int:
        return sum(batch.tokens for batch in self._batches.values() if now < batch.ends_at)

    async def find_batches(
        self,
        credential: Credential,
        batch_id: BatchId,
        *,
        created_after: datetime,
        input_file_id: str | None = None,
    ) -> Sequence[ProviderBatch]:
        self._reach()
        return [self._view(one) for one in self._batches.values() if one.ours == batch_id]

    async def retrieve(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        self._reach()
        return self._view(self._batches[provider_batch_id])

    async def cancel(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        self._reach()
        batch, now = self._batches[provider_batch_id], self._clock.now()
        if batch.cancelled_at is None and now < batch.ends_at:
            batch.cancelled_at = now
            batch.ends_at = min(batch.ends_at, now + self._weather.cancel_time(now))
        return self._view(batch)

    async def results(
        self, credential: Credential, file_id: str
    ) -> AsyncIterator[Sequence[ResultLine]]:
        self._reach()
        yield self._batches[file_id.removeprefix("out-")].results or ()

    async def delete_file(self, credential: Credential, file_id: str) -> None:
        self._reach()
        self._files.pop(file_id, None)

    def _reach(self) -> None:
        if not self._weather.is_up(self._clock.now()):
            raise ProviderUnavailableError("an outage", sent=False)

    def _view(self, batch: _Batch) -> ProviderBatch:
        has_ended = self._clock.now() >= batch.ends_at
        if has_ended and batch.results is None:
            batch.results = () if batch.error else self._run(batch)
        state = ProviderBatchState.RUNNING
        if has_ended:
            state = ProviderBatchState.ENDED
        elif batch.cancelled_at is not None:
            state = ProviderBatchState.CANCELLING
        return ProviderBatch(
            id=batch.id,
            state=state,
            status=state.value,
            created_at=batch.created_at,
            output_file_ids=(f"out-{batch.id}",) if batch.results else (),
            error_code=batch.error,
        )

    def _run(self, batch: _Batch) -> list[ResultLine]:
        """Bill and return what was computed: all, or the part up to a cancellation."""
        share = 1.0
        if batch.cancelled_at is not None:
            share = min(1.0, (batch.cancelled_at - batch.created_at) / batch.takes)
        done = int(len(batch.lines) * share)
        results = []
        for place, (name, body) in enumerate(batch.lines):
            if place < done:
                self._bill.charge(body, HALF, "batch")
                results.append(
                    ResultLine(kind=LineKind.ANSWERED, custom_id=name, status_code=200, body=b"{}")
                )
            else:
                results.append(
                    ResultLine(
                        kind=LineKind.NOT_EXECUTED, custom_id=name, error_code="batch_cancelled"
                    )
                )
        return results


class DayClient:
    """Direct calls to all upstreams."""

    def __init__(self, weather: Mapping[str, Weather], clock: Clock, bill: Bill, seed: str) -> None:
        self._weather = weather
        self._clock = clock
        self._bill = bill
        self._chance = random.Random(f"calls {seed}")

    def begin(self, *_: object) -> None:
        """Begin nothing: whoever calls it waits."""

    async def send(self, request: UpstreamRequest) -> FakeResponse:
        weather = self._weather[request.upstream.name]
        now = self._clock.now()
        if not weather.is_up(now):
            raise UpstreamUnavailableError("down", phase=Phase.CONNECT, cause="refused", sent=False)
        if request.method == "GET":
            return FakeResponse(200, b'{"data":[]}')
        assert isinstance(request.body, bytes)
        if json.loads(request.body).get("service_tier") == "flex":
            return await self._flex(weather, now, request.body)
        await asyncio.sleep(weather.call_time(now).total_seconds())
        if weather.fails(now, self._chance):
            return FakeResponse(503, b"{}")
        self._bill.charge(request.body, FULL, "full price")
        return FakeResponse(200, b'{"service_tier":"default"}')

    async def _flex(self, weather: Weather, now: datetime, body: bytes) -> FakeResponse:
        if not weather.has_flex:
            return FakeResponse(400, b'{"error":{"param":"service_tier"}}')
        if not weather.flex_is_open(now):
            return FakeResponse(429, b'{"error":{"code":"resource_unavailable"}}')
        await asyncio.sleep(weather.flex_time(now).total_seconds())
        self._bill.charge(body, HALF, "flex")
        return FakeResponse(200, b'{"service_tier":"flex"}')

    async def aclose(self) -> None:
        """Do nothing: there are no connections."""


def _line(line: bytes) -> tuple[str, bytes]:
    name = json.loads(line)["custom_id"]
    if not isinstance(name, str):  # pragma: no cover
        raise ProviderRejectedError("a line without a name")
    return name, line[line.index(b'"body":') + 7 : -1]
