"""Gemini's batches.

A small batch goes inline with its create, and its results come back inside of it; a
larger one is a file that is uploaded before, and its results are another. Either
carries our ID as its display name, by which a create that got no answer is found: the
API takes none as the same, and says so ("Batch API": creation is not idempotent).

Only `v1beta` has batches. What `fields` selects keeps answers small: an operation that
is done carries all of its inline results, wherever it is shown.

Sources: google-genai SDK 3.6, `batches` and `files`; Gemini API, "Batch API", "Files
API" and "Rate limits"; Google APIs, "System parameters".
"""

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from typing import Final

import pydantic_core

from proxy.core.batch_ends import INVALID_INPUT, TOO_MANY_TOKENS
from proxy.core.dialects import BatchApi
from proxy.core.errors import (
    ProviderBusyError,
    ProviderError,
    ProviderRejectedError,
)
from proxy.core.ids import BatchId
from proxy.core.upstream import Upstream
from proxy.ports.clock import Clock
from proxy.ports.jobs import Credential
from proxy.ports.provider import (
    BatchLimits,
    ProviderBatch,
    ProviderBatchState,
    ResultLine,
    Submission,
)
from proxy.ports.upstream import UpstreamClient
from proxy.providers import _wire
from proxy.providers.calls import Calls, input_s
from proxy.providers.gemini_files import GeminiFiles, code_of, download_place, listed, place
from proxy.providers.gemini_lines import inline_cutter, result_line
from proxy.providers.gemini_objects import (
    line_of,
    provider_batch,
    read_operation,
)
from proxy.providers.inputs import json_input, small_input
from proxy.providers.result_lines import Cutter, LineCutter, cut

INLINE_BYTES_MAX: Final = 1_000_000
INLINE_REQUESTS_MAX: Final = 100
"""Above either, the input is a file. The API takes 20 MB inline, but then shows all of
the results, of which one can be as long as a book, with every look at the batch."""

_CREATES: Final = {
    ":generateContent": ":batchGenerateContent",
    ":embedContent": ":asyncBatchEmbedContent",
}
_BATCHES: Final = "/v1beta/batches"

_SHOWN: Final = (
    "name,done,error,metadata(state,displayName,createTime,batchStats,output/responsesFile)"
)
_RESULTS_FILE: Final = "?fields=metadata/output/responsesFile,response/responsesFile"
_INLINE_RESULTS: Final = ("?fields=metadata/output", "?fields=response")
"""The places of results, which are told in both: the SDK reads the one, the guide the other."""

_MODEL: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_KEYED: Final = re.compile(rb'\{"key":("[^"\\]*(?:\\.[^"\\]*)*")')
_INLINED_MORE: Final = len(b',{"metadata":}') - len(b"\n")
"""By how much a line is longer when it is an element: metadata around the key, a comma."""


class GeminiBatches:
    """The batch API of one upstream that speaks Gemini's dialect.

    `client` is used and not closed. The results of a batch go by its own name, for
    `results` and `delete_file` alike: deleting it deletes the file with them.
    """

    def __init__(
        self,
        upstream: Upstream,
        api: BatchApi,
        client: UpstreamClient,
        *,
        clock: Clock,
        inline_bytes_max: int = INLINE_BYTES_MAX,
        inline_requests_max: int = INLINE_REQUESTS_MAX,
    ) -> None:
        self._limits = BatchLimits.of(api)
        self._calls = Calls(upstream, client, clock)
        self._files = GeminiFiles(self._calls)
        self._clock = clock
        self._inline_bytes_max = inline_bytes_max
        self._inline_requests_max = inline_requests_max

    def limits(self, endpoint: str) -> BatchLimits:  # noqa: ARG002
        return self._limits

    def frame(self, custom_id: str, endpoint: str) -> tuple[bytes, bytes]:  # noqa: ARG002
        return b'{"key":' + pydantic_core.to_json(custom_id) + b',"request":', b"}\n"

    async def upload(self, credential: Credential, submission: Submission) -> str | None:
        if self._goes_inline(submission):
            return None
        return await self._files.upload(credential, submission)

    async def find_upload(self, credential: Credential, submission: Submission) -> str | None:
        if self._goes_inline(submission):
            return None
        return await self._files.find_upload(credential, submission)

    async def create(
        self, credential: Credential, submission: Submission, file_id: str | None
    ) -> ProviderBatch:
        what = f"create of {submission.batch_id}"
        named = b'{"batch":{"displayName":' + pydantic_core.to_json(submission.batch_id)
        if file_id is None:
            head = named + b',"inputConfig":{"requests":{"requests":['
            body = json_input(_inlined(submission), head, b"]}}}}")
        else:
            config = pydantic_core.to_json({"fileName": file_id})
            body = small_input(named + b',"inputConfig":' + config + b"}}")
        assert _MODEL.fullmatch(submission.model), "the path of a call named it"
        path = f"/v1beta/models/{submission.model}{_CREATES[submission.endpoint]}"
        _wire.check_may_send(what, submission)
        try:
            raw = await self._calls.call(
                what,
                credential,
                "POST",
                path,
                body=body,
                within_s=input_s(body.length),
            )
        except (ProviderRejectedError, ProviderBusyError) as exc:
            raise create_refused(exc) from None
        return self._batch(what, raw)

    async def find_batches(
        self,
        credential: Credential,
        batch_id: BatchId,
        *,
        created_after: datetime,  # noqa: ARG002 (in which order the list comes is not documented)
        input_file_id: str | None = None,  # noqa: ARG002
    ) -> Sequence[ProviderBatch]:
        what, mask = f"search for {batch_id}", f"nextPageToken,operations({_SHOWN})"
        found = [
            provider_batch(operation, now=self._clock.now())
            async for entry in listed(self._calls, what, credential, _BATCHES, "operations", mask)
            if (operation := read_operation(entry)) and operation.metadata.display_name == batch_id
        ]
        return sorted(found, key=lambda batch: batch.created_at)

    async def retrieve(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        what = f"retrieve of {provider_batch_id}"
        path = f"{place(provider_batch_id)}?fields={_SHOWN}"
        raw = await self._calls.call(what, credential, "GET", path)
        _wire.check_known(what, raw, read_operation(_wire.json_value(raw)))
        return self._batch(what, raw)

    async def cancel(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        await cancel(self._calls, credential, provider_batch_id)
        return cancelling(await self.retrieve(credential, provider_batch_id))

    async def results(
        self, credential: Credential, file_id: str
    ) -> AsyncGenerator[Sequence[ResultLine], None]:
        what = f"results of {file_id}"
        file_name = await self._results_file(what, credential, file_id)
        sources: list[tuple[str, Cutter]]
        if file_name is None:
            sources = [(place(file_id) + mask, inline_cutter()) for mask in _INLINE_RESULTS]
        else:
            sources = [(download_place(file_name), LineCutter(result_line))]
        for path, cutter in sources:
            is_here = False
            async with aclosing(cut(self._calls.stream(what, credential, path), cutter)) as results:
                async for lines in results:
                    is_here = True
                    yield lines
            if is_here:
                return

    async def delete_file(self, credential: Credential, file_id: str) -> None:
        await self._files.delete(credential, file_id)

    async def _results_file(
        self, what: str, credential: Credential, provider_batch_id: str
    ) -> str | None:
        raw = await self._calls.call(
            what, credential, "GET", place(provider_batch_id) + _RESULTS_FILE
        )
        answer = _wire.json_value(raw)
        _wire.check_known(what, raw, read_operation(answer))
        # What was selected and is not there leaves nothing, not even a name.
        named = {**answer, "name": provider_batch_id} if isinstance(answer, dict) else None
        return _wire.expected(read_operation(named), what, "a batch").responses_file

    def _goes_inline(self, submission: Submission) -> bool:
        return (
            submission.input_bytes <= self._inline_bytes_max
            and submission.count <= self._inline_requests_max
        )

    def _batch(self, what: str, raw: bytes) -> ProviderBatch:
        operation = _wire.expected(read_operation(_wire.json_value(raw)), what, "a batch")
        return provider_batch(operation, now=self._clock.now())


def _inlined(submission: Submission) -> Submission:
    """Return the same input as elements of a list, each behind the comma that parts them."""

    async def elements() -> AsyncGenerator[bytes, None]:
        async for chunk in submission.lines():
            yield b"".join(map(_element, chunk.split(b"\n")[:-1]))

    more = _INLINED_MORE * submission.count
    return replace(submission, lines=elements, input_bytes=submission.input_bytes + more)


def _element(line: bytes) -> bytes:
    keyed = _KEYED.match(line)
    if keyed is None:
        # None of ours; that it is wrong shows in the length of the whole.
        return b"," + line
    return b',{"metadata":%b}%b' % (keyed[0], line[keyed.end() :])


async def cancel(calls: Calls, credential: Credential, name: str) -> None:
    """Have a batch cancelled. Nothing is answered of how it stands."""
    path = f"{place(name)}:cancel"
    await calls.call(f"cancel of {name}", credential, "POST", path, body=small_input(b"{}"))


def cancelling(batch: ProviderBatch) -> ProviderBatch:
    """Return how a batch stands that is to be cancelled, as it is shown by either API."""
    if batch.state is ProviderBatchState.RUNNING:
        # There is no state for it: it runs on until it is cancelled.
        return replace(batch, state=ProviderBatchState.CANCELLING)
    return batch


def create_refused(exc: ProviderError) -> ProviderError:
    """Return what a refused create means to those who must act on it.

    Too many enqueued tokens, and too many batches, are a 429 like any other; what a
    rate limit has and they do not is a time to come back (`google.rpc.RetryInfo`).
    """
    code = code_of(exc)
    if exc.status_code == 429 and exc.retry_after is None and not _has_retry_info(exc):
        return _rejected(exc, TOO_MANY_TOKENS)
    if exc.status_code == 404:
        # "… is not found …, or is not supported for batchGenerateContent".
        return _rejected(exc, "model_not_found")
    if code == "FAILED_PRECONDITION":
        # A file that is not ready yet, above all.
        return ProviderBusyError(exc.message, status_code=exc.status_code, body=exc.body)
    if exc.status_code == 400:
        return _rejected(exc, INVALID_INPUT, line=line_of(exc.message))
    return exc


def _rejected(exc: ProviderError, code: str, *, line: int | None = None) -> ProviderRejectedError:
    return ProviderRejectedError(
        exc.message, code=code, status_code=exc.status_code, body=exc.body, line=line
    )


def _has_retry_info(exc: ProviderError) -> bool:
    error = _wire.error_member(exc.body or b"")
    details = error.get("details") if isinstance(error, dict) else None
    return any(
        isinstance(detail, dict) and str(detail.get("@type", "")).endswith(".RetryInfo")
        for detail in (details if isinstance(details, list) else ())
    )
