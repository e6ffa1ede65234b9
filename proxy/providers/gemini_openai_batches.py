"""Gemini's batches by its OpenAI API.

Lines, creates and what is shown of a batch are OpenAI's. Files are not served there: they are
handed over by Gemini's own API, beside it at the same host. Nor is there a list or a cancel in
its documentation; but a batch has the name that it has in Gemini's API, which offers both.

Sources: Gemini API, "OpenAI compatibility", "Batch API" and "Files API".
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from typing import Final

import pydantic_core

from proxy.core.batch_ends import INPUT_MISSING
from proxy.core.dialects import DIALECTS, BatchApi
from proxy.core.errors import ProviderBusyError, ProviderError, ProviderRejectedError
from proxy.core.ids import BatchId
from proxy.core.refusals import FILE_REFUSED
from proxy.core.upstream import Upstream
from proxy.ports.clock import Clock
from proxy.ports.jobs import Credential
from proxy.ports.provider import (
    BatchLimits,
    ProviderBatch,
    ResultLine,
    Submission,
)
from proxy.ports.upstream import UpstreamClient
from proxy.providers import _wire
from proxy.providers.calls import Calls
from proxy.providers.gemini_batches import cancel, cancelling, create_refused
from proxy.providers.gemini_files import (
    GeminiFiles,
    checked,
    code_of,
    download_place,
    listed,
)
from proxy.providers.gemini_objects import UNANSWERED, OperationObject, read_operation
from proxy.providers.inputs import file_line, small_input
from proxy.providers.openai_objects import STATES, BatchObject, provider_batch, read_batch
from proxy.providers.result_lines import LineCutter, cut

_BATCHES: Final = "/v1/batches"
"""At the OpenAI API; its root stands for the version."""

_NATIVE_BATCHES: Final = "/v1beta/batches"
_INPUTS: Final = "nextPageToken,operations(name,metadata(createTime,inputConfig/fileName))"

_OF_OAUTH: Final = "ya29."
"""How tokens of Google's OAuth begin. They are bearers in both APIs; a key is one in this alone."""


class GeminiOpenAIBatches:
    """The batch API of one upstream that is Gemini's OpenAI API.

    `client` is used and not closed.
    """

    def __init__(
        self, upstream: Upstream, api: BatchApi, client: UpstreamClient, *, clock: Clock
    ) -> None:
        self._name = upstream.dialect
        self._limits_at = BatchLimits.by_path(DIALECTS[upstream.dialect].endpoints, api)
        self._clock = clock
        self._calls = Calls(upstream, client, clock)
        self._native = Calls(native_of(upstream), client, clock)
        self._files = GeminiFiles(self._native)

    def limits(self, endpoint: str) -> BatchLimits:
        return self._limits_at(endpoint)

    def frame(self, custom_id: str, endpoint: str) -> tuple[bytes, bytes]:
        return file_line(custom_id, endpoint)

    async def upload(self, credential: Credential, submission: Submission) -> str | None:
        return await self._files.upload(_native(credential), submission)

    async def find_upload(self, credential: Credential, submission: Submission) -> str | None:
        return await self._files.find_upload(_native(credential), submission)

    async def create(
        self, credential: Credential, submission: Submission, file_id: str | None
    ) -> ProviderBatch:
        assert file_id, "the input is uploaded first"
        what = f"create of {submission.batch_id}"
        # It takes no other window, and is known to take no other fields.
        asked = {
            "input_file_id": file_id,
            "endpoint": submission.endpoint,
            "completion_window": "24h",
        }
        body = small_input(pydantic_core.to_json(asked))
        _wire.check_may_send(what, submission)
        try:
            raw = await self._calls.call(what, credential, "POST", _BATCHES, body=body)
        except (ProviderRejectedError, ProviderBusyError) as exc:
            raise _refused(exc) from None
        return self._batch(what, raw)

    async def find_batches(
        self,
        credential: Credential,
        batch_id: BatchId,
        *,
        created_after: datetime,
        input_file_id: str | None = None,
    ) -> Sequence[ProviderBatch]:
        """Search the native list to its end: in which order it comes is not documented.

        Nor that it shows the input of a batch which this API created. A new batch of which it
        does not is asked for here: taken for another's, ours would be bought again.
        """
        entries = listed(
            self._native,
            f"search for {batch_id}",
            _native(credential),
            _NATIVE_BATCHES,
            "operations",
            _INPUTS,
        )
        names: list[str] = []
        async for entry in entries:
            operation = read_operation(entry)
            if operation is None or input_file_id is None:
                continue
            if operation.input_file == input_file_id or (
                _hides_its_input(operation, created_after)
                and await self._has_input(credential, operation.name, input_file_id)
            ):
                names.append(operation.name)
        found = [await self.retrieve(credential, name) for name in names]
        return sorted(found, key=lambda batch: batch.created_at)

    async def _has_input(self, credential: Credential, name: str, input_file_id: str) -> bool:
        """Return whether a batch, as this API shows it, is of that input."""
        try:
            batch = read_batch(_wire.json_value(await self._shown(credential, name)))
        except ProviderRejectedError:
            # Of the native API, and not known here.
            return False
        told = batch.input_file_id if batch is not None else None
        return told is not None and _named("files", told) == input_file_id

    async def retrieve(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        what = f"retrieve of {provider_batch_id}"
        raw = await self._shown(credential, provider_batch_id)
        _wire.check_known(what, raw, read_batch(_wire.json_value(raw)))
        return self._batch(what, raw)

    async def cancel(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        await cancel(self._native, _native(credential), provider_batch_id)
        return cancelling(await self.retrieve(credential, provider_batch_id))

    async def results(
        self, credential: Credential, file_id: str
    ) -> AsyncGenerator[Sequence[ResultLine], None]:
        what = f"results of {file_id}"
        stream = self._native.stream(what, _native(credential), download_place(file_id))
        async with aclosing(cut(stream, LineCutter())) as results:
            async for lines in results:
                yield lines

    async def delete_file(self, credential: Credential, file_id: str) -> None:
        await self._files.delete(_native(credential), file_id)

    async def _shown(self, credential: Credential, name: str) -> bytes:
        what, path = f"retrieve of {name}", f"{_BATCHES}/{checked(name)}"
        return await self._calls.call(what, credential, "GET", path)

    def _batch(self, what: str, raw: bytes) -> ProviderBatch:
        batch = _wire.expected(read_batch(_wire.json_value(raw)), what, "a batch")
        shown = provider_batch(batch, STATES, provider=self._name, now=self._clock.now())
        return replace(
            shown,
            # Names of resources, whatever is shown of them.
            id=_named("batches", shown.id),
            output_file_ids=tuple(_named("files", file_id) for file_id in shown.output_file_ids),
            error_code=shown.error_code or _untouched(batch, shown.status),
        )


def native_of(upstream: Upstream) -> Upstream:
    """Return the upstream of Gemini's own API at the same host."""
    base_path = upstream.base_path.removesuffix(DIALECTS[upstream.dialect].root)
    return Upstream.parse(upstream.name, "gemini", upstream.origin + base_path)


def _native(credential: Credential) -> Credential:
    """Return the credential as Gemini's own API wants it, which takes no key for a bearer."""
    headers = dict(credential.headers)
    _, _, token = headers.get("authorization", "").partition(" ")
    if not token or token.startswith(_OF_OAUTH):
        return credential
    del headers["authorization"]
    return replace(credential, headers=(("x-goog-api-key", token.strip()), *headers.items()))


def _hides_its_input(operation: OperationObject, created_after: datetime) -> bool:
    """Return whether a batch that is new enough does not tell what it was created of."""
    created = operation.metadata.created_at
    return operation.input_file is None and created is not None and created >= created_after


def _untouched(batch: BatchObject, status: str) -> str | None:
    """Return what a batch without results ended by, if it is certain that nothing was bought."""
    counts = batch.request_counts
    if status not in UNANSWERED or batch.output_file_id or batch.error_file_id:
        return None
    # Where nothing is counted, the total shows it.
    if not counts.get("total") or counts.get("completed") or counts.get("failed"):
        return None
    return UNANSWERED[status]


def _refused(exc: ProviderRejectedError | ProviderBusyError) -> ProviderError:
    """Return what a refused create means. Here not only a model may be what is not found.

    And a file that is refused is the input, since lines hardly name any here.
    """
    if code_of(exc) == FILE_REFUSED:
        return ProviderRejectedError(
            exc.message, code=INPUT_MISSING, status_code=exc.status_code, body=exc.body
        )
    if exc.status_code == 404 and "models/" not in exc.message:
        return _wire.create_refused(exc) if isinstance(exc, ProviderRejectedError) else exc
    return create_refused(exc)


def _named(kind: str, shown: str) -> str:
    return shown if shown.startswith(f"{kind}/") else f"{kind}/{shown}"
