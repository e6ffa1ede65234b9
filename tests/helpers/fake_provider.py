"""A provider in memory: batches and direct calls over one ledger, with faults on demand.

It passes the provider contract as far as it concerns the services: uploads cost
nothing, creates buy, results come once a batch is terminal, and every request can
be lost before or after it was done.
"""

import json
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Literal

from proxy.core.batch_ends import INPUT_CHANGED, INPUT_MISSING, INVALID_INPUT, TOO_MANY_TOKENS
from proxy.core.errors import (
    CredentialRefusedError,
    ProviderBusyError,
    ProviderRejectedError,
    ProviderUnavailableError,
)
from proxy.core.fields import RawHeaders
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
from proxy.ports.upstream import (
    Phase,
    Tunnel,
    UpstreamRequest,
    UpstreamUnavailableError,
    Write,
)

Fault = Literal[
    "lost_before",
    "lost_after",
    "busy",
    "unavailable",
    "refused",
    "forbidden",
    "rejected",
    "unknown",
    "throttled",
    "no_input",
    "no_path",
    "redirected",
]
"""`lost_before` surely did nothing; `lost_after` did it and lost the answer."""

LineAnswer = Callable[[str, bytes], tuple[int, bytes] | None]
"""From custom ID and body to status and answer; nothing means: no line at all."""

CallAnswers = Callable[[bytes], tuple[int, bytes]]
"""From the body of a direct call to status and answer. Only a 2xx is billed."""


@dataclass(slots=True)
class FakeBatch:
    id: str
    ours: BatchId
    owner_token: str
    lines: list[tuple[str, bytes]]
    created_at: datetime
    status: str = "in_progress"
    results: list[ResultLine] = field(default_factory=list)
    error: tuple[str, int | None] | None = None
    deleted: bool = False
    ends_at: datetime | None = None
    """When a cancelled batch will have stopped."""


def right_answer(body: bytes) -> bytes:
    """Return the one answer that this provider gives to a call."""
    usage = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
    return json.dumps({"echo": json.loads(body), "usage": usage}).encode()


BATCH_NANO = 2 * 1_000 + 1 * 4_000
"""What one answer costs in a batch, by `tests.helpers.books.PRICE`."""

CALL_NANO = 2 * 2_000 + 1 * 8_000
"""What it costs as an ordinary call."""


class FakeProvider:
    """Implements `Provider`; `direct()` gives an `UpstreamClient` with the same ledger."""

    def __init__(self, clock: Clock, *, max_requests: int = 1_000) -> None:
        self._clock = clock
        self._max_requests = max_requests
        self.max_bytes = 10_000_000
        self.turnaround = timedelta(minutes=7)
        self.window = timedelta(hours=24)
        self.poll_floor = timedelta(0)
        self.can_cancel = True
        self.keeps_partial_results = True
        self.batch_models: dict[str, str] | None = None
        """The names of models in batches, if they are not those of calls."""
        self.files: dict[str, tuple[str, bytes, str]] = {}
        # An ID is never given twice, not even after its file is deleted.
        self._file_numbers = count(1)
        self.batches: dict[str, FakeBatch] = {}
        self.bought: Counter[bytes] = Counter()
        """How often each body was computed and billed."""
        self.spent_nano = 0
        """What all that was bought cost."""
        self.requests: Counter[str] = Counter()
        self.faults: dict[str, deque[Fault]] = {}
        self.retry_after = timedelta(seconds=5)
        """How long to stay away from it if it is busy."""
        self.revoked: set[str] = set()
        self.forbids = b"{}"
        """What it answers to a key that may do all but this."""
        self.answer_line: LineAnswer = lambda _, body: (200, right_answer(body))
        self.fail_next: deque[tuple[str, int | None]] = deque()
        """Validation errors, code and line, of the batches created next."""
        self.stalled = False
        """Whether batches stay in progress past their turnaround."""
        self.cancel_time = timedelta(0)
        """How long a cancelled batch goes on."""
        self.poison: bytes | None = None
        """A body for which it refuses whole batches, without saying so."""
        self.poison_fails_as: str | None = None
        """With which code a batch with it fails, if it is created at all."""

        self.listing_lag = timedelta(0)
        """How long a new batch is missing from the lists."""
        self.hidden: set[str] = set()
        """Batches that the provider says it does not know."""
        self.projects: dict[str, str] = {}
        """The project of a token, for tokens that see each other's batches."""
        self.answer_call: CallAnswers = lambda body: (200, right_answer(body))
        self.mangle: Callable[[list[ResultLine]], list[ResultLine]] = lambda lines: lines
        """What the provider makes of its lines before anybody reads them."""
        self.misreport: Callable[[ProviderBatch], ProviderBatch] = lambda batch: batch
        """What it makes of a batch that it is asked for."""
        self.in_the_middle: dict[str, Callable[[], Awaitable[None]]] = {}
        """What happens elsewhere while a request is on its way, once."""

    def limits(self, endpoint: str) -> BatchLimits:
        return BatchLimits(
            max_requests=self._max_requests,
            max_bytes=self.max_bytes,
            max_line_bytes=1_000_000,
            batch_models=self.batch_models,
            keeps_partial_results=self.keeps_partial_results,
            poll_floor=self.poll_floor,
            can_cancel=self.can_cancel,
        )

    def frame(self, custom_id: str, endpoint: str) -> tuple[bytes, bytes]:
        return b'{"custom_id":"%s","body":' % custom_id.encode(), b"}\n"

    async def upload(self, credential: Credential, submission: Submission) -> str | None:
        self._before("upload", credential)
        await self._meanwhile("upload")
        content = b"".join([chunk async for chunk in submission.lines()])
        if len(content) != submission.input_bytes:
            raise ProviderUnavailableError("the input is another now", code=INPUT_CHANGED)
        file_id = f"file-{next(self._file_numbers)}"
        self.files[file_id] = (submission.batch_id, content, _token(credential))
        self._after("upload")
        return file_id

    async def find_upload(self, credential: Credential, submission: Submission) -> str | None:
        self._before("find_upload", credential)
        for file_id, (name, content, token) in self.files.items():
            mine = (name, len(content), token)
            if mine == (submission.batch_id, submission.input_bytes, _token(credential)):
                return file_id
        return None

    async def create(
        self, credential: Credential, submission: Submission, file_id: str | None
    ) -> ProviderBatch:
        await self._turn(submission)
        self._before("create", credential)
        await self._meanwhile("create")
        assert file_id is not None
        if file_id not in self.files:
            raise ProviderRejectedError("no such file", status_code=404)
        batch = FakeBatch(
            id=f"batch_{len(self.batches) + 1}",
            ours=submission.batch_id,
            owner_token=_token(credential),
            lines=_lines(self.files[file_id][1]),
            created_at=self._clock.now(),
        )
        assert len({name for name, _ in batch.lines}) == len(batch.lines), "a duplicate custom_id"
        if any(body == self.poison for _, body in batch.lines):
            if self.poison_fails_as is None:
                raise ProviderRejectedError("some line", code=INVALID_INPUT, status_code=400)
            self.fail_next.append((self.poison_fails_as, None))
        if self.fail_next:
            batch.error = self.fail_next.popleft()
            batch.status = "failed"
        self.batches[batch.id] = batch
        self._after("create")
        return self._view(batch)

    async def find_batches(
        self,
        credential: Credential,
        batch_id: BatchId,
        *,
        created_after: datetime,
        input_file_id: str | None = None,
    ) -> Sequence[ProviderBatch]:
        self._before("find_batches", credential)
        return [
            self._view(batch)
            for batch in self.batches.values()
            if batch.ours == batch_id
            and batch.created_at >= created_after
            and self._sees(credential, batch)
            and self._clock.now() >= batch.created_at + self.listing_lag
        ]

    async def retrieve(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        self._before("retrieve", credential)
        batch = self._own(credential, provider_batch_id)
        self._progress(batch)
        return self.misreport(self._view(batch))

    async def cancel(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        self._before("cancel", credential)
        if not self.can_cancel:
            raise ProviderRejectedError("no batch is stopped here", status_code=404)
        batch = self._own(credential, provider_batch_id)
        self._progress(batch)
        if batch.status == "in_progress":
            batch.status = "cancelling"
            batch.ends_at = self._clock.now() + self.cancel_time
            self._progress(batch)
        return self._view(batch)

    async def results(
        self, credential: Credential, file_id: str
    ) -> AsyncIterator[Sequence[ResultLine]]:
        self._before("results", credential)
        batch = self._own(credential, file_id.removeprefix("out-"))
        if batch.deleted:
            raise ProviderRejectedError("no such file", status_code=404)
        lines = self.mangle(list(batch.results))
        for start in range(0, len(lines), 3):
            yield lines[start : start + 3]
        self._after("results")

    async def delete_file(self, credential: Credential, file_id: str) -> None:
        self._before("delete_file", credential)
        self.files.pop(file_id, None)
        if file_id.startswith("out-"):
            self.batches[file_id.removeprefix("out-")].deleted = True

    def direct(self) -> "FakeUpstreamClient":
        """Return a client for direct calls that bill to the same ledger."""
        return FakeUpstreamClient(self)

    def finish(self, provider_batch_id: str, status: str, *, executed: int) -> None:
        """End a batch now, with this many of its lines computed."""
        self._finish(self.batches[provider_batch_id], status, executed=executed)

    def _progress(self, batch: FakeBatch) -> None:
        age = self._clock.now() - batch.created_at
        if batch.ends_at is not None and self._clock.now() >= batch.ends_at:
            batch.ends_at = None
            # Half of it is finished and billed, as providers do.
            self._finish(batch, "cancelled", executed=len(batch.lines) // 2)
        if batch.status != "in_progress":
            return
        if age >= self.window:
            self._finish(batch, "expired", executed=len(batch.lines) // 2)
        elif age >= self.turnaround and not self.stalled:
            self._finish(batch, "completed", executed=len(batch.lines))

    def _finish(self, batch: FakeBatch, status: str, *, executed: int) -> None:
        batch.status = status
        for name, body in reversed(batch.lines[:executed]):
            answer = self.answer_line(name, body)
            # What has no line is computed and billed like any other, and then lost.
            if answer is None or 200 <= answer[0] < 300:
                self.bought[body] += 1
                self.spent_nano += BATCH_NANO
            if answer is not None:
                code, content = answer
                batch.results.append(
                    ResultLine(
                        kind=LineKind.ANSWERED, custom_id=name, status_code=code, body=content
                    )
                )
        for name, _ in batch.lines[executed:]:
            batch.results.append(
                ResultLine(kind=LineKind.NOT_EXECUTED, custom_id=name, error_code=f"batch_{status}")
            )

    def _own(self, credential: Credential, provider_batch_id: str) -> FakeBatch:
        batch = self.batches.get(provider_batch_id)
        if batch is None or batch.id in self.hidden or not self._sees(credential, batch):
            raise ProviderRejectedError("no such batch", status_code=404)
        return batch

    def _sees(self, credential: Credential, batch: FakeBatch) -> bool:
        mine, its = _token(credential), batch.owner_token
        return self.projects.get(mine, mine) == self.projects.get(its, its)

    async def _turn(self, submission: Submission) -> None:
        """Let a create wait for its turn, and see whether it still may be sent."""
        await self._meanwhile("turn of create")
        if not submission.may_send():
            raise ProviderUnavailableError("its time to send was over", sent=False)

    async def _meanwhile(self, operation: str) -> None:
        happening = self.in_the_middle.pop(operation, None)
        if happening is not None:
            await happening()

    def _view(self, batch: FakeBatch) -> ProviderBatch:
        state = {
            "in_progress": ProviderBatchState.RUNNING,
            "cancelling": ProviderBatchState.CANCELLING,
        }.get(batch.status, ProviderBatchState.ENDED)
        error = batch.error or (None, None)
        return ProviderBatch(
            id=batch.id,
            state=state,
            status=batch.status,
            created_at=batch.created_at,
            window_ends_at=batch.created_at + self.window,
            output_file_ids=(f"out-{batch.id}",) if batch.results else (),
            error_code=error[0],
            error_line=error[1],
        )

    def _before(self, operation: str, credential: Credential) -> None:
        self.requests[operation] += 1
        if _token(credential) in self.revoked:
            raise CredentialRefusedError("revoked", status_code=401, body=b'{"error":"revoked"}')
        waiting = self.faults.get(operation)
        if not waiting or waiting[0] == "lost_after":
            return
        fault = waiting.popleft()
        if fault == "lost_before":
            raise ProviderUnavailableError(f"{operation}: refused", sent=False)
        if fault == "unavailable":
            raise ProviderUnavailableError(f"{operation}: 503", status_code=503)
        if fault == "redirected":
            raise ProviderUnavailableError(f"{operation}: 302", status_code=302)
        if fault == "busy":
            raise ProviderBusyError(
                f"{operation}: 429", status_code=429, retry_after=self.retry_after
            )
        if fault == "refused":
            raise CredentialRefusedError(f"{operation}: 401", status_code=401, body=b"{}")
        if fault == "forbidden":
            raise CredentialRefusedError(f"{operation}: 403", status_code=403, body=self.forbids)
        if fault in ("unknown", "no_path"):
            # A server that takes files and knows no batches reads like one that knows no file.
            code = INPUT_MISSING if fault == "no_path" else None
            raise ProviderRejectedError(f"{operation}: 404", code=code, status_code=404)
        codes = {"no_input": INPUT_MISSING, "throttled": TOO_MANY_TOKENS}
        code = codes.get(fault)
        raise ProviderRejectedError(f"{operation}: 400", code=code, status_code=400)

    def _after(self, operation: str) -> None:
        waiting = self.faults.get(operation)
        if waiting and waiting[0] == "lost_after":
            waiting.popleft()
            raise ProviderUnavailableError(f"{operation}: the answer was lost")


def _token(credential: Credential) -> str:
    return dict(credential.headers).get("authorization", "")


def _lines(content: bytes) -> list[tuple[str, bytes]]:
    lines = []
    for line in content.splitlines():
        name = json.loads(line)["custom_id"]
        lines.append((name, line[line.index(b'"body":') + 7 : -1]))
    return lines


class FakeUpstreamClient:
    """Implements `UpstreamClient` for direct calls of jobs."""

    def __init__(self, provider: FakeProvider) -> None:
        self._provider = provider

    def begin(self, *_: object) -> None:
        """Begin nothing: whoever calls it waits."""

    async def send(self, request: UpstreamRequest) -> "FakeResponse":
        provider = self._provider
        provider.requests["call"] += 1
        fault = None
        if waiting := provider.faults.get("call"):
            fault = waiting.popleft()
        token = dict(request.headers).get(b"authorization", b"").decode()
        if token in provider.revoked:
            return FakeResponse(401, b'{"error":{"code":"invalid_api_key"}}')
        if fault == "lost_before":
            raise UpstreamUnavailableError(
                "refused", phase=Phase.CONNECT, cause="refused", sent=False
            )
        if fault == "busy":
            return FakeResponse(429, b'{"error":{"code":"rate_limit_exceeded"}}')
        if fault == "unavailable":
            return FakeResponse(503, b"{}")
        if request.method == "GET":
            return FakeResponse(200, b'{"data":[]}')
        assert isinstance(request.body, bytes)
        await provider._meanwhile("call")
        status, answer = provider.answer_call(request.body)
        provider.bought[request.body] += 200 <= status < 300
        provider.spent_nano += CALL_NANO * (200 <= status < 300)
        if fault == "lost_after":
            raise UpstreamUnavailableError(
                "reset", phase=Phase.FIRST_BYTE, cause="reset", sent=True
            )
        return FakeResponse(status, answer)

    async def aclose(self) -> None:
        """Do nothing: there are no connections."""


class FakeResponse:
    """A whole answer."""

    reason = ""
    chunked = False
    at_end = True
    headers: RawHeaders = ((b"content-type", b"application/json"),)
    trailers: RawHeaders = ()
    framed = False
    body_bytes = 0

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self._body = body

    def take_ready(self) -> bytes:
        return b""

    async def next_chunk(self) -> bytes:
        body, self._body = self._body, b""
        return body

    async def pump(self, write: Write) -> None:
        raise AssertionError("no answer to a job is relayed")

    def tunnel(self) -> Tunnel:
        raise AssertionError("no call of a job is upgraded")

    def close(self) -> None:
        """Do nothing: there is no connection."""
