"""Batches of OpenAI and of the providers that copied its API.

What members of the family differ in stands in a `FamilyTable`; a clone is a row.
A provider whose batches keep no metadata is no member: after an ambiguous create
its batches could not be told from anybody else's.

Sources: OpenAI API description, `/files` and `/batches` (openapi.yaml, 2026-08-21),
and the Batch guide.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import IO, TYPE_CHECKING, Final, NoReturn, cast

import pydantic_core

from proxy.core.errors import (
    CredentialRefusedError,
    ProviderError,
    ProviderRejectedError,
    ProviderUnavailableError,
)
from proxy.core.ids import BatchId
from proxy.core.routing import Upstream
from proxy.ports.clock import Clock
from proxy.ports.jobs import Credential
from proxy.ports.provider import (
    BatchLimits,
    ProviderBatch,
    ProviderBatchState,
    ResultLine,
    Submission,
)
from proxy.providers import _wire
from proxy.providers.channel import Channel
from proxy.providers.openai_objects import (
    BatchObject,
    Page,
    provider_batch,
    read_batch,
    read_file,
    read_page,
)
from proxy.providers.upload_body import UploadBody, WrongLengthError

if TYPE_CHECKING:
    from proxy.providers.openai_client import Session

METADATA_KEY: Final = "offramp_batch"
"""Under it a provider batch carries our batch's ID."""

UPLOAD_S: Final = 1_800.0
"""Bound of one upload: 200 MB at 1 Mbit/s, and some for what is before it."""

SKEW: Final = timedelta(minutes=15)
"""How far the provider's clock may be from ours, when lists are searched by time."""

_LIST_LIMIT: Final = 100
_LIST_PAGES_MAX: Final = 600
"""Creates are limited to 2,000 an hour (Batch guide): more than a day of them."""

_FILE_LIST_LIMIT: Final = 1_000
_FILE_LIST_PAGES_MAX: Final = 10
"""A file that is not among the newest 10,000 is uploaded again, which costs nothing."""

_RUNNING, _CANCELLING, _ENDED = (
    ProviderBatchState.RUNNING,
    ProviderBatchState.CANCELLING,
    ProviderBatchState.ENDED,
)

# OpenAI API, object `Batch`, field `status`; in lower case, since Azure capitalises.
_STATES: Final = {
    "validating": _RUNNING,
    "in_progress": _RUNNING,
    "finalizing": _RUNNING,
    "cancelling": _CANCELLING,
    "completed": _ENDED,
    "failed": _ENDED,
    "expired": _ENDED,
    "cancelled": _ENDED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyTable:
    """What one member of the family does its own way."""

    name: str
    base_path: str = "/v1"
    """Between the upstream's base URL and `/files` or `/batches`."""

    completion_window: str = "24h"
    limits: BatchLimits
    states: Mapping[str, ProviderBatchState] = field(default_factory=lambda: _STATES)
    """Its status words, in lower case."""

    file_life_s: int = 14 * 86_400
    """After how long it deletes input and results by itself, should we never do it.

    Two weeks: results outlast a long outage of ours, and no member of the family
    accepts less that takes this field for inputs (Azure: 14 to 30 days).
    """


OPENAI: Final = FamilyTable(
    name="openai",
    limits=BatchLimits(
        max_requests=50_000,
        # 200 MB by the guide, 209,715,200 bytes by an observed error: the smaller reading.
        max_bytes=200_000_000,
        # No limit of a line is documented. A larger body is not worth the memory that it
        # takes on its way, and can be called directly.
        max_line_bytes=32 * 1024 * 1024,
    ),
)


class OpenAIBatches:
    """The batch API of one upstream of the OpenAI family.

    Two threads do the work: one for short calls, one for uploads and downloads,
    so that a slow upload of one credential does not hold up the polls of all.
    """

    def __init__(self, upstream: Upstream, table: FamilyTable = OPENAI, *, clock: Clock) -> None:
        self._table = table
        self._clock = clock
        base_url = upstream.base_url.rstrip("/") + table.base_path
        self._calls = Channel(f"{upstream.name}-calls", base_url, clock)
        self._transfers = Channel(f"{upstream.name}-transfers", base_url, clock)

    def limits(self, endpoint: str) -> BatchLimits:  # noqa: ARG002
        return self._table.limits

    def frame(self, custom_id: str, endpoint: str) -> tuple[bytes, bytes]:
        name, url = json.dumps(custom_id), json.dumps(endpoint)
        return f'{{"custom_id":{name},"method":"POST","url":{url},"body":'.encode(), b"}\n"

    async def upload(self, credential: Credential, submission: Submission) -> str | None:
        body = UploadBody(submission.input_bytes)
        name = _file_name(submission.batch_id)

        def send(session: "Session") -> bytes:
            answer = session.client.files.with_raw_response.create(
                file=(name, cast("IO[bytes]", body), "application/jsonl"),
                purpose="batch",
                expires_after={"anchor": "created_at", "seconds": self._table.file_life_s},
            )
            return answer.content

        what = f"upload of {submission.batch_id}"
        try:
            async with asyncio.TaskGroup() as group:
                filling = group.create_task(body.fill(submission.lines()))
                try:
                    raw = await self._transfers.run(
                        what, credential, send, on_abort=body.abort, within_s=UPLOAD_S
                    )
                finally:
                    # An answer may come before all was read; nobody would read the rest.
                    filling.cancel()
        except ExceptionGroup as failures:
            # The first failure is the cause of whatever followed from it.
            raise _cause(what, failures.exceptions[0]) from None
        file = read_file(_json(raw))
        if file is None:
            raise _no_object(what, raw)
        return file.id

    async def find_upload(self, credential: Credential, submission: Submission) -> str | None:
        name, after = _file_name(submission.batch_id), None
        for _ in range(_FILE_LIST_PAGES_MAX):
            page = await self._files_page(credential, after)
            for entry in page.entries:
                file = read_file(entry)
                if (
                    file is not None
                    and file.filename == name
                    and file.bytes == submission.input_bytes
                    and file.status != "error"
                ):
                    return file.id
            if not page.has_more or page.last_id in (None, after):
                break
            after = page.last_id
        return None

    async def create(
        self, credential: Credential, submission: Submission, file_id: str | None
    ) -> ProviderBatch:
        assert file_id, "the input is uploaded first"
        table = self._table

        def send(session: "Session") -> bytes:
            answer = session.client.batches.with_raw_response.create(
                input_file_id=file_id,
                # The package lists OpenAI's own windows and endpoints; clones have others.
                endpoint=submission.endpoint,  # type: ignore[arg-type]
                completion_window=table.completion_window,  # type: ignore[arg-type]
                metadata={METADATA_KEY: submission.batch_id},
                output_expires_after={"anchor": "created_at", "seconds": table.file_life_s},
                extra_headers=dict(submission.headers),
            )
            return answer.content

        what = f"create of {submission.batch_id}"
        raw = await self._calls.run(what, credential, send)
        # Whatever is no batch promises nothing: the lists will tell whether there is one.
        return self._batch(_json(raw)) or _raise(_no_object(what, raw))

    async def find_batches(
        self, credential: Credential, batch_id: BatchId, *, created_after: datetime
    ) -> Sequence[ProviderBatch]:
        """Search the provider's list, newest first, back to `created_after` and some minutes.

        Our ID in the metadata is enough to know a batch by; its input file would be
        the same for both of two twins and adds nothing.

        Raises:
            ProviderUnavailableError: also if the list could not be read to that time:
                a search that was not complete proves nothing.
        """
        oldest, found, after = created_after - SKEW, [], None
        for _ in range(_LIST_PAGES_MAX):
            page = await self._batches_page(credential, after)
            batches = [batch for entry in page.entries if (batch := read_batch(entry))]
            found += [self._ours(b) for b in batches if b.metadata.get(METADATA_KEY) == batch_id]
            times = [batch.created_at for batch in batches if batch.created_at]
            if not page.has_more or (times and times[-1] < oldest):
                return sorted(found, key=lambda batch: batch.created_at)
            if page.last_id in (None, after):
                break
            after = page.last_id
        raise ProviderUnavailableError(f"search for {batch_id}: the list does not end")

    async def retrieve(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        what = f"retrieve of {provider_batch_id}"
        raw = await self._calls.run(
            what,
            credential,
            lambda session: (
                session.client.batches.with_raw_response.retrieve(provider_batch_id).content
            ),
        )
        return self._batch(_json(raw)) or _raise(_vanished(what, raw))

    async def cancel(self, credential: Credential, provider_batch_id: str) -> ProviderBatch:
        what = f"cancel of {provider_batch_id}"
        raw = await self._calls.run(
            what,
            credential,
            lambda session: (
                session.client.batches.with_raw_response.cancel(provider_batch_id).content
            ),
        )
        return self._batch(_json(raw)) or _raise(_vanished(what, raw))

    async def results(
        self, credential: Credential, file_id: str
    ) -> AsyncGenerator[Sequence[ResultLine], None]:
        download = self._transfers.download(credential, file_id)
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
        await self._transfers.aclose()

    async def _files_page(self, credential: Credential, after: str | None) -> Page:
        what = "list of files"
        raw = await self._calls.run(
            what,
            credential,
            lambda session: (
                session.client.files.with_raw_response.list(
                    purpose="batch",
                    order="desc",
                    limit=_FILE_LIST_LIMIT,
                    extra_query=_cursor(after),
                ).content
            ),
        )
        return read_page(_json(raw)) or _raise(_no_object(what, raw))

    async def _batches_page(self, credential: Credential, after: str | None) -> Page:
        what = "list of batches"
        raw = await self._calls.run(
            what,
            credential,
            lambda session: (
                session.client.batches.with_raw_response.list(
                    limit=_LIST_LIMIT, extra_query=_cursor(after)
                ).content
            ),
        )
        return read_page(_json(raw)) or _raise(_no_object(what, raw))

    def _batch(self, value: object) -> ProviderBatch | None:
        batch = read_batch(value)
        return None if batch is None else self._ours(batch)

    def _ours(self, batch: BatchObject) -> ProviderBatch:
        return provider_batch(
            batch, self._table.states, provider=self._table.name, now=self._clock.now()
        )


def _file_name(batch_id: BatchId) -> str:
    # The extension is required: "Invalid file format for Batch API. Must be .jsonl".
    return f"{batch_id}.jsonl"


def _json(raw: bytes) -> object:
    try:
        return pydantic_core.from_json(raw)
    except ValueError:
        return None


def _cause(what: str, failure: Exception) -> Exception:
    if isinstance(failure, WrongLengthError):
        return _wire.unavailable(what, f"the input has another length: {failure}")
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


def _cursor(after: str | None) -> dict[str, object] | None:
    return None if after is None else {"after": after}
