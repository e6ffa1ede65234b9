"""xAI's batches.

The input is a file. A batch can also be created empty and be given its requests bit by bit,
but what is found after a crash is half of one then, or nothing, and does not say so; created
of a file, it is the whole batch or none, and takes no request beside. What is uploaded twice
costs nothing.

The name of a batch is our ID, so after an ambiguous create ours is found for certain. Lists
have no documented order, and times in them are mere dates: they are read to their end, and
what was created when is not asked.

Files are handed over as at OpenAI, without a purpose; that they are listed as there is assumed.
If it is wrong, what was uploaded before a crash is not found, and uploaded once more.

Sources: xAI, "Batch API" and REST API reference; types of its Python SDK 1.21.
"""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode

from proxy.core.dialects import BatchApi
from proxy.core.errors import ProviderRejectedError
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
from proxy.providers.calls import Calls
from proxy.providers.inputs import Input, file_line, file_name, form_ends, small_input
from proxy.providers.item_cutter import ItemCutter
from proxy.providers.lenient import mapping
from proxy.providers.openai_objects import read_file
from proxy.providers.result_lines import cut
from proxy.providers.xai_objects import RESULTS, provider_batch, read_batch, result_line

_BATCHES: Final = "/v1/batches"
_FILES: Final = "/v1/files"

_LIST_LIMIT: Final = 100
_LIST_PAGES_MAX: Final = 600
_FILE_PAGES_MAX: Final = 10
"""A file that is not among these is uploaded again, which costs nothing."""

_RESULTS_LIMIT: Final = 1_000
_RESULT_PAGES_MAX: Final = 5_000
"""A hundred times as many as a batch can have: the provider may make them smaller."""

_FILE_LIFE_S: Final = 14 * 86_400
"""After so long an input deletes itself, should we never do it. It is read at once."""


class XaiBatches:
    """The batch API of one upstream that speaks xAI's dialect.

    `client` is used and not closed.
    """

    def __init__(
        self, upstream: Upstream, api: BatchApi, client: UpstreamClient, *, clock: Clock
    ) -> None:
        self._limits = BatchLimits.of(api)
        self._calls = Calls(upstream, client, clock)
        self._clock = clock

    def limits(self, endpoint: str) -> BatchLimits:  # noqa: ARG002
        return self._limits

    def frame(self, custom_id: str, endpoint: str) -> tuple[bytes, bytes]:
        return file_line(custom_id, endpoint)

    async def upload(self, credential: Credential, submission: Submission) -> str | None:
        what = f"upload of {submission.batch_id}"
        raw = await self._calls.upload(what, credential, _FILES, submission, _form(submission))
        return _wire.expected(read_file(_wire.json_value(raw)), what, "a file").id

    async def find_upload(self, credential: Credential, submission: Submission) -> str | None:
        ours = (file_name(submission.batch_id), submission.input_bytes)
        pages = self._pages("list of files", credential, _FILES, "data", at_most=_FILE_PAGES_MAX)
        async with aclosing(pages):
            async for entries, _ in pages:
                files = [file for entry in entries if (file := read_file(entry))]
                found = next((f.id for f in files if (f.filename, f.bytes) == ours), None)
                if found is not None:
                    return found
        return None

    async def create(
        self, credential: Credential, submission: Submission, file_id: str | None
    ) -> ProviderBatch:
        assert file_id, "the input is uploaded first"
        what = f"create of {submission.batch_id}"
        asked = {"name": submission.batch_id, "input_file_id": file_id}
        body = small_input(json.dumps(asked).encode())
        try:
            raw = await self._calls.create(what, credential, _BATCHES, submission, body)
        except ProviderRejectedError as exc:
            raise _wire.create_refused(exc) from None
        return self._batch(what, raw)

    async def find_batches(
        self,
        credential: Credential,
        batch_id: BatchId,
        *,
        created_after: datetime,  # noqa: ARG002
        input_file_id: str | None = None,  # noqa: ARG002
    ) -> Sequence[ProviderBatch]:
        """Search the provider's whole list.

        Raises:
            ProviderUnavailableError: also if the list could not be read to its end.
        """
        what, found = f"search for {batch_id}", dict[str, ProviderBatch]()
        pages = self._pages(what, credential, _BATCHES, "batches", at_most=_LIST_PAGES_MAX)
        async with aclosing(pages):
            async for entries, is_last in pages:
                for entry in entries:
                    batch = read_batch(entry)
                    if batch is not None and batch.name == batch_id:
                        found[batch.batch_id] = provider_batch(batch, now=self._clock.now())
                if is_last:
                    return sorted(found.values(), key=lambda batch: batch.created_at)
        raise _wire.unavailable(what, "the list does not end")

    async def retrieve(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        what = f"retrieve of {provider_batch_id}"
        return self._batch(
            what, await self._calls.call(what, credential, "GET", _place(provider_batch_id))
        )

    async def cancel(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        """Ask the provider to stop. That it has, only a later look tells.

        Its counts move for a while: what is running when it is stopped may finish yet.
        """
        what = f"cancel of {provider_batch_id}"
        place = f"{_place(provider_batch_id)}:cancel"
        batch = self._batch(what, await self._calls.call(what, credential, "POST", place))
        return replace(batch, state=ProviderBatchState.CANCELLING, output_file_ids=())

    async def results(
        self, credential: Credential, file_id: str
    ) -> AsyncGenerator[Sequence[ResultLine], None]:
        batch_id = file_id.removeprefix(RESULTS)
        what, query = f"results of {batch_id}", f"?limit={_RESULTS_LIMIT}"
        for _ in range(_RESULT_PAGES_MAX):
            cutter = ItemCutter("results", result_line)
            stream = self._calls.stream(what, credential, f"{_place(batch_id)}/results{query}")
            async with aclosing(cut(stream, cutter)) as chunks:
                async for lines in chunks:
                    yield lines
            _, following = _page(what, bytes(cutter.outline), "results")
            if following is None:
                return
            query = _next_query(what, query, _RESULTS_LIMIT, following)
        raise _wire.unavailable(what, "they do not end")

    async def delete_file(self, credential: Credential, file_id: str) -> None:
        if file_id.startswith(RESULTS):
            # Nothing deletes a batch: it goes by itself, when it expires.
            return
        place = f"{_FILES}/{_wire.id_segment(file_id)}"
        await self._calls.delete(f"delete of {file_id}", credential, place)

    async def _pages(
        self, what: str, credential: Credential, path: str, name: str, *, at_most: int
    ) -> AsyncGenerator[tuple[list[Any], bool], None]:
        """Yield the entries of each page of a list, and whether it is the last one."""
        query = f"?limit={_LIST_LIMIT}"
        for _ in range(at_most):
            raw = await self._calls.call(what, credential, "GET", path + query)
            entries, following = _page(what, raw, name)
            yield entries, following is None
            if following is None:
                return
            query = _next_query(what, query, _LIST_LIMIT, following)

    def _batch(self, what: str, raw: bytes) -> ProviderBatch:
        batch = _wire.expected(read_batch(_wire.json_value(raw)), what, "a batch")
        return provider_batch(batch, now=self._clock.now())


def _page(what: str, raw: bytes, name: str) -> tuple[list[Any], str | None]:
    """Return the list `name` of a page, and what the next page is asked for by.

    Raises:
        ProviderUnavailableError: if it holds no such list. Taken for an empty one, it would
            prove too much.
    """
    page = mapping(_wire.json_value(raw))
    entries, token = page.get(name), page.get("pagination_token")
    found = _wire.expected(entries if isinstance(entries, list) else None, what, "a list")
    return found, token if isinstance(token, str) and token else None


def _next_query(what: str, query: str, limit: int, token: str) -> str:
    following = f"?{urlencode({'limit': limit, 'pagination_token': token})}"
    if following == query:
        raise _wire.unavailable(what, "its pages lead back to themselves")
    return following


def _form(submission: Submission) -> Input:
    # How long it lives must be told before the file: behind it, that is refused. No purpose
    # is asked for.
    fields = {"expires_after": str(_FILE_LIFE_S)}
    head, tail, content_type = form_ends(submission.batch_id, fields)
    return Input(
        submission.lines(),
        submission.input_bytes,
        head=head,
        tail=tail,
        content_type=content_type,
    )


def _place(provider_batch_id: str) -> str:
    return f"{_BATCHES}/{_wire.id_segment(provider_batch_id)}"
