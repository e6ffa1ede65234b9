"""A provider's batch API, as the services use it.

An adapter sends each request once and repeats none by itself: what may be sent
again is decided above, where it is known what was durable before. It raises

- `ProviderUnavailableError`: no answer, or one that promises nothing. After
  `create` this is ambiguous, unless the error's `sent` is false.
- `ProviderBusyError`: refused for now, nothing was done.
- `ProviderRejectedError`: refused for good, nothing was done.
- `CredentialRefusedError`: the account is at fault, nothing was done.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple, Protocol

from proxy.core.dialects import BatchApi, Endpoint, Mark, Shape
from proxy.core.ids import BatchId
from proxy.ports.jobs import Credential


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """The provider's own bounds of one batch, with headroom taken off."""

    max_requests: int
    max_bytes: int
    """Bytes of the whole input, line framing included."""

    max_line_bytes: int

    max_inputs: int | None = None
    """Texts that all calls of the batch may carry together, where the provider counts them."""

    names_batches: bool = True
    """Whether a batch can carry our ID, so that a search knows it for certain.

    If not, what `find_batches` returns may be anybody's, and only one create of a
    credential may be in doubt at a time.
    """

    can_cancel: bool = True
    """Whether a batch can be stopped before its end.

    If not, a job enters one only if its deadline lies beyond the whole window.
    """

    window: timedelta = timedelta(hours=24)
    """After this long a batch is terminal, whatever is finished of it."""

    keeps_partial_results: bool = True
    """Whether what a cancelled or expired batch had finished can be read.

    If not, stopping one throws paid work away, and only jobs that are likely to be
    answered well before their deadline enter it.
    """

    poll_floor: timedelta = timedelta(0)
    """How often at most the provider wants to be asked after a batch."""

    batch_models: Mapping[str, str] | None = None
    """Under which name batches know each model, where that is another than in calls."""

    @classmethod
    def of(
        cls,
        api: BatchApi,
        endpoint: Endpoint | None = None,
        batch_models: Mapping[str, str] | None = None,
    ) -> "BatchLimits":
        """Return what the rows of a dialect and of an endpoint say, and what an operator adds."""
        most, embeds = api.max_requests, False
        if endpoint is not None:
            most, embeds = endpoint.max_requests or most, endpoint.shape is Shape.EMBEDDINGS
        return cls(
            max_requests=min(most, api.max_requests),
            max_bytes=api.max_bytes,
            max_line_bytes=api.max_line_bytes,
            max_inputs=api.max_inputs if embeds else None,
            names_batches=api.mark is not Mark.NOTHING,
            can_cancel=api.can_cancel,
            window=api.longest,
            keeps_partial_results=api.keeps_partial,
            poll_floor=api.poll_floor,
            batch_models=(batch_models or {}) if api.maps_models else None,
        )

    @classmethod
    def by_path(
        cls,
        endpoints: Mapping[str, Endpoint],
        api: BatchApi,
        batch_models: Mapping[str, str] | None = None,
    ) -> "Callable[[str], BatchLimits]":
        """Return what tells the bounds at a path, also at one that is none of the endpoints."""
        usual = cls.of(api, batch_models=batch_models)
        own = {path: cls.of(api, endpoint, batch_models) for path, endpoint in endpoints.items()}
        return lambda path: own.get(path, usual)

    def batch_model(self, model: str) -> str | None:
        """Return the name of a model within batches; nothing if it cannot be batched."""
        if self.batch_models is None or model in self.batch_models.values():
            return model
        return self.batch_models.get(model)


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One batch on its way to a provider."""

    batch_id: BatchId
    endpoint: str
    model: str
    headers: tuple[tuple[str, str], ...]
    count: int
    input_bytes: int
    """Exact length of all lines as `frame` makes them."""

    lines: Callable[[], AsyncIterator[bytes]]
    """Opens the input anew from its first byte; chunks hold whole lines."""

    slack: timedelta | None = None
    """How long it is to the nearest deadline, for providers that offer several windows."""

    may_send: Callable[[], bool] = _always
    """Asked by `create` when its turn has come, from any thread: an instance that stood
    still meanwhile may have been taken over, and would buy the batch a second time."""


class ProviderBatchState(StrEnum):
    """What a provider's own status word means to us."""

    RUNNING = "running"
    """Also every word that we do not know: reading it as an end would buy twice."""

    CANCELLING = "cancelling"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderBatch:
    """A provider's batch as it answered, in our words."""

    id: str
    state: ProviderBatchState
    status: str
    """The provider's own word."""

    created_at: datetime
    window_ends_at: datetime | None = None
    count: int | None = None
    """How many requests it has, where the provider tells."""

    output_file_ids: tuple[str, ...] = ()
    """Every file with results, those of successes first. Never an empty string."""

    lacks_answers: bool = False
    """Whether it counts successes, and names no file with them. Counts are not to be relied on."""

    error_code: str | None = None
    error_message: str | None = None
    error_line: int | None = None
    """1-based, if one line failed the whole batch."""


class LineKind(StrEnum):
    """What became of one line."""

    ANSWERED = "answered"
    """The provider executed it: `status_code` and `body` are its answer, good or bad."""

    NOT_EXECUTED = "not_executed"
    """Expired or cancelled before its turn, at no cost."""

    OVERLONG = "overlong"
    """The answer is too long to be read. Most likely it is paid for."""

    UNREADABLE = "unreadable"
    """The line is broken; its `custom_id` may be unknown."""


class ResultLine(NamedTuple):
    """One line of a result file. `body` is the exact byte span of the answer."""

    # A tuple, as is whatever else is made for each of them: a frozen record takes several
    # times as long to make.

    kind: LineKind
    custom_id: str | None
    status_code: int = 0
    body: bytes = b""
    request_id: str | None = None
    error_code: str | None = None
    content: object = None
    """What the body says as JSON, where reading the line has told it already."""


class Provider(Protocol):
    """The batch API of one dialect."""

    def limits(self, endpoint: str) -> BatchLimits:
        """Return the bounds for batches of `endpoint`."""
        ...

    def frame(self, custom_id: str, endpoint: str) -> tuple[bytes, bytes]:
        """Return what stands before and after a body in its line of the input."""
        ...

    async def upload(self, credential: Credential, submission: Submission) -> str | None:
        """Hand over the input and return its file ID; nothing if `create` carries it.

        Costs nothing and may be repeated; `find_upload` finds an earlier one.
        """
        ...

    async def find_upload(self, credential: Credential, submission: Submission) -> str | None:
        """Return the file that an earlier `upload` of this batch left, if it is whole."""
        ...

    async def create(
        self, credential: Credential, submission: Submission, file_id: str | None
    ) -> ProviderBatch:
        """Buy the batch. Carries our batch ID wherever the provider keeps one.

        Raises:
            ProviderUnavailableError: with `sent` false if `submission.may_send` forbids it.
        """
        ...

    async def find_batches(
        self,
        credential: Credential,
        batch_id: BatchId,
        *,
        created_after: datetime,
        input_file_id: str | None = None,
    ) -> Sequence[ProviderBatch]:
        """Return every provider batch that carries our ID, oldest first.

        One that was created before `created_after`, by the provider's clock, need not be
        among them: lists of thousands are read no further.

        `input_file_id` is what `upload` returned: some know a batch by its input alone.
        Where batches have no names (`BatchLimits.names_batches`), every one of the
        account that was created after `created_after`.
        """
        ...

    async def retrieve(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        """Ask for the status.

        Raises:
            ProviderRejectedError: with `status_code` 404 if the provider knows no such batch.
        """
        ...

    async def cancel(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        """Ask the provider to stop; what is finished stays and is billed."""
        ...

    def results(self, credential: Credential, file_id: str) -> AsyncIterator[Sequence[ResultLine]]:
        """Stream the lines of a result file, in chunks, in any order."""
        ...

    async def delete_file(self, credential: Credential, file_id: str) -> None:
        """Delete a file at the provider; one that is gone already is no error.

        Where results are a part of their batch, this deletes the batch.
        """
        ...
