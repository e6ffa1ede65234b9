"""Mistral's batch jobs.

A small batch goes inline with its create, a large one as a file. Jobs keep metadata, so
after an ambiguous create ours is found for certain. The lists are searched by time and
looked through here: they have a filter by metadata too, but one that is written in another
way than the server reads it finds nothing, which would prove an absence that is none.

Sources: Mistral API description, `/v1/batch/jobs` and `/v1/files`; types of the SDK 3.7.
"""

import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlencode

from proxy.core.dialects import DIALECTS, BatchApi, window_for
from proxy.core.errors import ProviderRejectedError, ProviderUnavailableError
from proxy.core.ids import BatchId
from proxy.core.upstream import Upstream
from proxy.ports.clock import Clock
from proxy.ports.jobs import Credential
from proxy.ports.provider import BatchLimits, ProviderBatch, ResultLine, Submission
from proxy.ports.upstream import UpstreamClient
from proxy.providers import _wire
from proxy.providers.calls import Calls
from proxy.providers.inputs import (
    Input,
    file_name,
    form_ends,
    json_file,
    json_input,
    list_item,
    small_input,
)
from proxy.providers.item_cutter import ItemCutter
from proxy.providers.mistral_objects import INLINE, provider_batch, read_job
from proxy.providers.openai_objects import Page, read_file, read_page
from proxy.providers.result_lines import Cutter, LineCutter, cut

METADATA_KEY: Final = "offramp_batch"
"""Under it a job carries our batch's ID; a key may have 32 characters."""

_JOBS: Final = "/v1/batch/jobs"
_FILES: Final = "/v1/files"

_INLINE_REQUESTS: Final = 10_000
"""Mistral API, `BatchJobIn.requests`: fewer than this go inline."""

_INLINE_BYTES: Final = 16 * 1024 * 1024
"""No bound of a create is documented; a larger one is a file, whose upload costs nothing
when it breaks off."""

_LIST_LIMIT: Final = 100
_LIST_PAGES_MAX: Final = 100


class MistralBatches:
    """The batch API of one upstream that speaks Mistral's dialect.

    `client` is used and not closed.
    """

    def __init__(
        self, upstream: Upstream, api: BatchApi, client: UpstreamClient, *, clock: Clock
    ) -> None:
        self._api = api
        self._limits_at = BatchLimits.by_path(DIALECTS[upstream.dialect].endpoints, api)
        self._calls = Calls(upstream, client, clock)
        self._clock = clock

    def limits(self, endpoint: str) -> BatchLimits:
        return self._limits_at(endpoint)

    def frame(self, custom_id: str, endpoint: str) -> tuple[bytes, bytes]:  # noqa: ARG002
        return list_item(custom_id, b"body")

    async def upload(self, credential: Credential, submission: Submission) -> str | None:
        if _goes_inline(submission):
            return None
        what = f"upload of {submission.batch_id}"
        body = json_file(submission, *form_ends(submission.batch_id, {"purpose": "batch"}))
        raw = await self._calls.upload(what, credential, _FILES, submission, body)
        return _wire.expected(read_file(_wire.json_value(raw)), what, "a file").id

    async def find_upload(self, credential: Credential, submission: Submission) -> str | None:
        if _goes_inline(submission):
            return None
        what, name = "list of files", file_name(submission.batch_id)
        query = {"purpose": "batch", "search": name, "page_size": _LIST_LIMIT}
        raw = await self._calls.call(what, credential, "GET", f"{_FILES}?{urlencode(query)}")
        page = _wire.expected(read_page(_wire.json_value(raw)), what, "a list")
        size = submission.input_bytes - submission.count
        files = [file for entry in page.entries if (file := read_file(entry))]
        return next((f.id for f in files if (f.filename, f.bytes) == (name, size)), None)

    async def create(
        self, credential: Credential, submission: Submission, file_id: str | None
    ) -> ProviderBatch:
        what = f"create of {submission.batch_id}"
        body = self._create_body(submission, file_id)
        try:
            raw = await self._calls.create(what, credential, _JOBS, submission, body)
        except ProviderRejectedError as exc:
            raise (_wire.create_refused(exc) if file_id is not None else exc) from None
        batch = self._batch(what, raw)
        # A job does not say when it gives up.
        ends_at = batch.created_at + window_for(self._api, submission.slack)
        return replace(batch, window_ends_at=ends_at)

    def _create_body(self, submission: Submission, file_id: str | None) -> Input:
        asked: dict[str, object] = {
            "endpoint": submission.endpoint,
            "model": submission.model,
            "metadata": {METADATA_KEY: submission.batch_id},
            "timeout_hours": window_for(self._api, submission.slack) // timedelta(hours=1),
        }
        if file_id is not None:
            return small_input(json.dumps(asked | {"input_files": [file_id]}).encode())
        head = json.dumps(asked)[:-1] + ', "requests": ['
        return json_input(submission, head.encode(), b"]}")

    async def find_batches(
        self,
        credential: Credential,
        batch_id: BatchId,
        *,
        created_after: datetime,
        input_file_id: str | None = None,  # noqa: ARG002
    ) -> Sequence[ProviderBatch]:
        """Search the provider's list, newest first, back to `created_after`.

        Raises:
            ProviderUnavailableError: also if the list could not be read to its end.
        """
        what = f"search for {batch_id}"
        found: dict[str, ProviderBatch] = {}
        since, seen = created_after.isoformat(), 0
        for number in range(_LIST_PAGES_MAX):
            page = await self._jobs_page(what, credential, since, number)
            seen += len(page.entries)
            for entry in page.entries:
                job = read_job(entry)
                if job is not None and job.metadata.get(METADATA_KEY) == batch_id:
                    # A job that comes in meanwhile shifts the pages: one may be seen twice.
                    found[job.id] = provider_batch(job, now=self._clock.now())
            # The server may make its pages smaller than it is asked to.
            is_full = len(page.entries) >= _LIST_LIMIT
            if not page.entries or (not is_full and seen >= page.total):
                return sorted(found.values(), key=lambda batch: batch.created_at)
        raise ProviderUnavailableError(f"{what}: the list does not end")

    async def _jobs_page(self, what: str, credential: Credential, since: str, number: int) -> Page:
        query = {
            "page": number,
            "page_size": _LIST_LIMIT,
            "order_by": "-created",
            "created_after": since,
        }
        raw = await self._calls.call(what, credential, "GET", f"{_JOBS}?{urlencode(query)}")
        return _wire.expected(read_page(_wire.json_value(raw)), what, "a list")

    async def retrieve(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        what = f"retrieve of {provider_batch_id}"
        raw = await self._calls.call(what, credential, "GET", _place(_JOBS, provider_batch_id))
        return self._batch(what, raw)

    async def cancel(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        what = f"cancel of {provider_batch_id}"
        place = f"{_place(_JOBS, provider_batch_id)}/cancel"
        return self._batch(what, await self._calls.call(what, credential, "POST", place))

    def results(
        self, credential: Credential, file_id: str
    ) -> AsyncGenerator[Sequence[ResultLine], None]:
        cutter: Cutter = LineCutter()
        place = f"{_results_place(file_id)}/content"
        if file_id.startswith(INLINE):
            cutter = ItemCutter("outputs")
            place = f"{_results_place(file_id)}?inline=true"
        stream = self._calls.stream(f"results of {file_id}", credential, place)
        return cut(stream, cutter)

    async def delete_file(self, credential: Credential, file_id: str) -> None:
        await self._calls.delete(f"delete of {file_id}", credential, _results_place(file_id))

    def _batch(self, what: str, raw: bytes) -> ProviderBatch:
        job = _wire.expected(read_job(_wire.json_value(raw)), what, "a batch job")
        return provider_batch(job, now=self._clock.now())


def _goes_inline(submission: Submission) -> bool:
    return submission.count < _INLINE_REQUESTS and submission.input_bytes <= _INLINE_BYTES


def _results_place(file_id: str) -> str:
    if file_id.startswith(INLINE):
        return _place(_JOBS, file_id.removeprefix(INLINE))
    return _place(_FILES, file_id)


def _place(where: str, name: str) -> str:
    return f"{where}/{_wire.id_segment(name)}"
