"""Batches of OpenAI and of the providers that copied its API.

What members of the family differ in stands in their rows (`proxy.core.dialects`):
a clone is a row, and no code. What they merely answer in another shape is read
leniently, whoever sends it (`openai_objects`).

Sources: OpenAI API description, `/files` and `/batches` (openapi.yaml, 2026-08-21),
and the Batch guide; types of the SDKs of Groq 1.7 and Together 3.1.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import IO, TYPE_CHECKING, Final, NoReturn, cast

from proxy.core.dialects import DIALECTS, BatchApi, Mark, window_for
from proxy.core.errors import (
    CredentialRefusedError,
    ProviderError,
    ProviderRejectedError,
    ProviderUnavailableError,
)
from proxy.core.ids import BatchId
from proxy.core.upstream import Upstream
from proxy.core.web_proxy import WebProxy
from proxy.ports.clock import Clock
from proxy.ports.jobs import Credential
from proxy.ports.provider import (
    BatchLimits,
    ProviderBatch,
    ResultLine,
    Submission,
)
from proxy.providers import _wire
from proxy.providers.channel import Channel
from proxy.providers.inputs import file_line
from proxy.providers.openai_objects import (
    STATES,
    BatchObject,
    FileObject,
    Page,
    provider_batch,
    read_batch,
    read_file,
    read_page,
)
from proxy.providers.site import Site
from proxy.providers.upload_body import UploadBody, WrongLengthError

if TYPE_CHECKING:
    from openai.resources.batches import BatchesWithRawResponse

    from proxy.providers.openai_client import Session

METADATA_KEY: Final = "offramp_batch"
"""Under it a provider batch carries our batch's ID."""

UPLOAD_S: Final = 1_800.0
"""Bound of one upload: 200 MB at 1 Mbit/s, and some for what is before it."""

_LIST_LIMIT: Final = 100
_LIST_PAGES_MAX: Final = 600
"""Creates are limited to 2,000 an hour (Batch guide): more than a day of them."""

_FILE_LIST_LIMIT: Final = 1_000
_FILE_LIST_PAGES_MAX: Final = 10
"""A file that is not among the newest 10,000 is uploaded again, which costs nothing."""


Following = tuple[str, str] | None
"""The parameter that asks for the page behind another; none asks for the first."""


class OpenAIBatches:
    """The batch API of one upstream of the OpenAI family.

    Three threads do the work: for short calls, for uploads, and for downloads. So a slow
    upload of one credential, which may take half an hour, holds up no polls and no results.
    """

    def __init__(
        self,
        upstream: Upstream,
        api: BatchApi,
        *,
        clock: Clock,
        batch_models: Mapping[str, str] | None = None,
        web_proxy: WebProxy | None = None,
    ) -> None:
        self._name = upstream.dialect
        self._api = api
        endpoints = DIALECTS[upstream.dialect].endpoints
        self._limits_at = BatchLimits.by_path(endpoints, api, batch_models)
        self._clock = clock
        base_url = upstream.origin + upstream.target_of("/v1")
        site = Site(base_url, DIALECTS[upstream.dialect].user_agent, web_proxy)
        self._calls = Channel(f"{upstream.name}-calls", site, clock)
        self._uploads = Channel(f"{upstream.name}-uploads", site, clock)
        self._downloads = Channel(f"{upstream.name}-downloads", site, clock)

    def limits(self, endpoint: str) -> BatchLimits:
        return self._limits_at(endpoint)

    def frame(self, custom_id: str, endpoint: str) -> tuple[bytes, bytes]:
        return file_line(custom_id, endpoint)

    async def upload(self, credential: Credential, submission: Submission) -> str | None:
        body = UploadBody(submission.input_bytes)
        name = _file_name(submission.batch_id)

        def send(session: "Session") -> bytes:
            return session.upload(self._api.files, name, cast("IO[bytes]", body))

        what = f"upload of {submission.batch_id}"
        try:
            async with asyncio.TaskGroup() as group:
                filling = group.create_task(body.fill(submission.lines()))
                try:
                    raw = await self._uploads.run(
                        what, credential, send, on_abort=body.abort, within_s=UPLOAD_S
                    )
                finally:
                    # An answer may come before all was read; nobody would read the rest.
                    filling.cancel()
        except ExceptionGroup as failures:
            # The first failure is the cause of whatever followed from it.
            raise _cause(what, failures.exceptions[0]) from None
        file = read_file(_wire.json_value(raw))
        if file is None:
            raise _no_object(what, raw)
        return file.id

    async def find_upload(self, credential: Credential, submission: Submission) -> str | None:
        following = None
        for _ in range(_FILE_LIST_PAGES_MAX):
            page = await self._files_page(credential, following)
            files = [file for entry in page.entries if (file := read_file(entry))]
            found = next((file for file in files if _is_input(file, submission)), None)
            if found is not None:
                return found.id
            if page.next_query in (None, following):
                break
            following = page.next_query
        return None

    async def create(
        self, credential: Credential, submission: Submission, file_id: str | None
    ) -> ProviderBatch:
        assert file_id, "the input is uploaded first"
        asked = self._create_body(submission, file_id)

        what = f"create of {submission.batch_id}"

        def send(session: "Session") -> bytes:
            # The thread may have been busy with an upload until now.
            _wire.check_may_send(what, submission)
            return session.create(asked, dict(submission.headers))

        try:
            raw = await self._calls.run(what, credential, send)
        except ProviderRejectedError as exc:
            raise _wire.create_refused(exc) from None
        # Whatever is no batch promises nothing: the lists will tell whether there is one.
        return self._batch(_wire.json_value(raw)) or _raise(_no_object(what, raw))

    def _create_body(self, submission: Submission, file_id: str) -> dict[str, object]:
        body: dict[str, object] = {
            "input_file_id": file_id,
            "endpoint": submission.endpoint,
            "completion_window": _window_word(window_for(self._api, submission.slack)),
        }
        if self._api.mark is Mark.METADATA:
            body["metadata"] = {METADATA_KEY: submission.batch_id}
        life = self._api.files.file_life
        if life is not None:
            seconds = int(life.total_seconds())
            body["output_expires_after"] = {"anchor": "created_at", "seconds": seconds}
        return body

    async def find_batches(
        self,
        credential: Credential,
        batch_id: BatchId,
        *,
        created_after: datetime,
        input_file_id: str | None = None,
    ) -> Sequence[ProviderBatch]:
        """Search the provider's list, newest first, back to `created_after`.

        Our ID in the metadata is enough to know a batch by, and so is our file where
        there is no metadata; two twins have either in common.

        Raises:
            ProviderUnavailableError: also if the list could not be read to that time:
                a search that was not complete proves nothing.
        """
        found: list[ProviderBatch] = []
        following = None
        for _ in range(_LIST_PAGES_MAX):
            # No page is kept while the next one is awaited: searches come in dozens.
            more, is_last, next_query = await self._search_page(
                credential,
                following,
                created_after,
                lambda b: self._is_meant(b, batch_id, input_file_id),
            )
            found += more
            if is_last:
                return sorted(found, key=lambda batch: batch.created_at)
            if next_query in (None, following):
                break
            following = next_query
        raise ProviderUnavailableError(f"search for {batch_id}: the list does not end")

    async def _search_page(
        self,
        credential: Credential,
        following: Following,
        created_after: datetime,
        is_meant: Callable[[BatchObject], bool],
    ) -> tuple[list[ProviderBatch], bool, Following]:
        """Return what is meant on a page, whether nothing behind it can be, and what asks on."""
        page = await self._batches_page(credential, following)
        batches = [batch for entry in page.entries if (batch := read_batch(entry))]
        times = [batch.created_at for batch in batches if batch.created_at]
        # Lists that go on by a cursor have no documented order, and a copy may have another:
        # what is bought must not be missed behind a page of the oldest ones.
        is_older = page.cursor is None and bool(
            times and times[-1] < created_after and times[-1] <= times[0]
        )
        meant = [self._ours(batch) for batch in batches if is_meant(batch)]
        return meant, is_older or not page.has_more, page.next_query

    async def retrieve(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        return await self._about(
            f"retrieve of {provider_batch_id}",
            credential,
            lambda batches: batches.retrieve(provider_batch_id).content,
        )

    async def cancel(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        return await self._about(
            f"cancel of {provider_batch_id}",
            credential,
            lambda batches: batches.cancel(provider_batch_id).content,
        )

    async def _about(
        self, what: str, credential: Credential, ask: "Callable[[BatchesWithRawResponse], bytes]"
    ) -> ProviderBatch:
        """Return the batch that `ask` is answered with."""
        raw = await self._calls.run(
            what, credential, lambda session: ask(session.client.batches.with_raw_response)
        )
        return self._batch(_wire.json_value(raw)) or _raise(_vanished(what, raw))

    async def results(
        self, credential: Credential, file_id: str
    ) -> AsyncGenerator[Sequence[ResultLine], None]:
        download = self._downloads.download(credential, file_id)
        try:
            while (lines := await download.next_lines()) is not None:
                if lines:
                    yield lines
        finally:
            download.close()

    async def delete_file(self, credential: Credential, file_id: str) -> None:
        try:
            await self._calls.run(
                f"delete of {file_id}",
                credential,
                lambda session: session.client.files.with_raw_response.delete(file_id).content,
            )
        except ProviderRejectedError as exc:
            if exc.status_code != 404:
                raise

    async def aclose(self) -> None:
        """Abort what is under way; close connections and threads."""
        await self._calls.aclose()
        await self._uploads.aclose()
        await self._downloads.aclose()

    def _is_meant(self, batch: BatchObject, batch_id: BatchId, input_file_id: str | None) -> bool:
        if self._api.mark is Mark.METADATA:
            return batch.metadata.get(METADATA_KEY) == batch_id
        return input_file_id is not None and batch.input_file_id == input_file_id

    async def _files_page(self, credential: Credential, following: Following) -> Page:
        query = {"purpose": self._api.files.purpose, "order": "desc"}
        return await self._page(
            "list of files", credential, "/files", query, _FILE_LIST_LIMIT, following
        )

    async def _batches_page(self, credential: Credential, following: Following) -> Page:
        return await self._page(
            "list of batches", credential, "/batches", {}, _LIST_LIMIT, following
        )

    async def _page(
        self,
        what: str,
        credential: Credential,
        path: str,
        query: Mapping[str, str],
        limit: int,
        following: Following,
    ) -> Page:
        files = self._api.files
        asked = {**query, "limit": limit} if files.pages else {}
        if following is not None:
            asked |= [following]
        raw = await self._calls.run(what, credential, lambda session: session.list(path, asked))
        page = read_page(
            _wire.json_value(raw),
            may_be_bare=files.bare_lists,
            limit=limit if files.pages else None,
        )
        return page or _raise(_no_object(what, raw))

    def _batch(self, value: object) -> ProviderBatch | None:
        batch = read_batch(value)
        return None if batch is None else self._ours(batch)

    def _ours(self, batch: BatchObject) -> ProviderBatch:
        return provider_batch(batch, STATES, provider=self._name, now=self._clock.now())


def _file_name(batch_id: BatchId) -> str:
    # The extension is required: "Invalid file format for Batch API. Must be .jsonl".
    return f"{batch_id}.jsonl"


def _is_input(file: FileObject, submission: Submission) -> bool:
    """Return whether a file is the whole input of the batch, as an upload of ours left it."""
    return (
        file.filename == _file_name(submission.batch_id)
        and file.bytes == submission.input_bytes
        and file.status != "error"
    )


def _cause(what: str, failure: Exception) -> Exception:
    if isinstance(failure, WrongLengthError):
        return _wire.input_changed(what, str(failure))
    return failure


def _no_object(what: str, raw: bytes) -> ProviderError:
    """Return the error for a success that does not hold what was asked for."""
    code = _wire.error_code(_wire.error_member(raw))
    if _wire.is_credential_code(code):
        return CredentialRefusedError(f"{what}: {code}", status_code=200, body=raw)
    return _wire.unavailable(what, f"HTTP 200 without it, but {code or 'something else'}")


def _vanished(what: str, raw: bytes) -> ProviderError:
    """Return the error for a batch that was there and is answered without being there.

    `{"error": ...}` with status 200 is how a provider may say that it knows the batch
    no more (tensorzero/tensorzero #1198); any other answer says nothing.
    """
    error = _no_object(what, raw)
    if _wire.error_member(raw) is None or isinstance(error, CredentialRefusedError):
        return error
    return _wire.refusal(what, status=404, body=raw)


def _raise(error: ProviderError) -> NoReturn:
    raise error


def _window_word(window: timedelta) -> str:
    """Return a window as the family writes it: `24h`, `7d`."""
    days, rest = divmod(window, timedelta(days=1))
    if days > 1 and not rest:
        return f"{days}d"
    return f"{window // timedelta(hours=1)}h"
