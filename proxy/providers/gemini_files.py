"""Gemini's files and lists, of which its batches make use, whoever created them.

Sources: google-genai SDK 3.6, `files`; Gemini API, "Files API"; Google APIs, "System
parameters".
"""

import re
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import quote, urlsplit

import pydantic_core

from proxy.core.errors import ProviderError, ProviderRejectedError
from proxy.core.refusals import FILE_REFUSED, error_code
from proxy.ports.jobs import Credential
from proxy.ports.provider import Submission
from proxy.providers import _wire
from proxy.providers.calls import Calls, input_s
from proxy.providers.gemini_objects import read_file, read_page
from proxy.providers.inputs import Input, small_input

_FILES: Final = "/v1beta/files"
_UPLOAD: Final = "/upload/v1beta/files"

_NAME: Final = re.compile(r"(?:batches|files)/[A-Za-z0-9_-]{1,256}")
_PAGE_SIZE: Final = 100
_PAGES_MAX: Final = 200
"""How many pages of either list: more than a project can have (100 batches at a time, 48 hours of
files)."""


class GeminiFiles:
    """The files of one upstream; `calls` go to the root of its native API."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def upload(self, credential: Credential, submission: Submission) -> str:
        """Upload the lines of a batch under its ID; return the name of the file."""
        what = f"upload of {submission.batch_id}"
        place = await self._begun_upload(what, credential, submission)
        lines = submission.lines()
        body = Input(lines, submission.input_bytes, content_type="application/jsonl")
        raw = await self._calls.call(
            what,
            credential,
            "POST",
            place,
            headers={"x-goog-upload-command": "upload, finalize", "x-goog-upload-offset": "0"},
            body=body,
            within_s=input_s(submission.input_bytes),
        )
        answer = _wire.json_value(raw)
        file = read_file(answer.get("file") if isinstance(answer, dict) else None)
        return _wire.expected(file, what, "a file").name

    async def find_upload(self, credential: Credential, submission: Submission) -> str | None:
        """Return the name of the file that such an upload left, whole."""
        what, mask = "list of files", "nextPageToken,files(name,displayName,sizeBytes,state)"
        async for entry in listed(self._calls, what, credential, _FILES, "files", mask):
            file = read_file(entry)
            if (
                file is not None
                and file.display_name == submission.batch_id
                and file.size == submission.input_bytes
                and file.state != "FAILED"
            ):
                return file.name
        return None

    async def delete(self, credential: Credential, name: str) -> None:
        """Delete a file, or a batch and the files it made; what is gone already is no error."""
        try:
            await self._calls.call(f"delete of {name}", credential, "DELETE", place(name))
        except ProviderRejectedError as exc:
            if exc.status_code != 404 and code_of(exc) != FILE_REFUSED:
                raise

    async def _begun_upload(self, what: str, credential: Credential, submission: Submission) -> str:
        """Announce the file; return the path at which its bytes are taken."""
        answer = await self._calls.exchange(
            what,
            credential,
            "POST",
            _UPLOAD,
            headers={
                "x-goog-upload-protocol": "resumable",
                "x-goog-upload-command": "start",
                "x-goog-upload-header-content-length": str(submission.input_bytes),
                "x-goog-upload-header-content-type": "application/jsonl",
            },
            body=small_input(pydantic_core.to_json({"file": {"displayName": submission.batch_id}})),
        )
        # Only path and query of the address are used: credentials go to our upstream alone.
        url = urlsplit(answer.headers.get("x-goog-upload-url", ""))
        # A gateway may show what it puts before the path, which is put there again, or not.
        _, found, rest = url.path.partition(_UPLOAD)
        if not found or not url.query:
            raise _wire.unavailable(what, "HTTP 200 without a place for the bytes")
        return f"{_UPLOAD}{quote(rest)}?{quote(url.query, safe='=&%+/:,')}"


async def listed(
    calls: Calls, what: str, credential: Credential, path: str, name: str, mask: str
) -> AsyncIterator[object]:
    """Yield the entries of a whole list, which `name` holds; `mask` selects what is shown.

    Raises:
        ProviderUnavailableError: also if it does not end.
    """
    query = f"?pageSize={_PAGE_SIZE}&fields={mask}"
    for _ in range(_PAGES_MAX):
        raw = await calls.call(what, credential, "GET", path + query)
        page = _wire.expected(read_page(_wire.json_value(raw), name), what, "a list")
        for entry in page.entries:
            yield entry
        if page.next_token is None:
            return
        token = quote(page.next_token, safe="")
        query = f"?pageSize={_PAGE_SIZE}&pageToken={token}&fields={mask}"
    raise _wire.unavailable(what, "the list does not end")


def place(name: str) -> str:
    """Return the path of a batch or a file."""
    return f"/v1beta/{checked(name)}"


def download_place(name: str) -> str:
    """Return the target of a file's content."""
    return f"/download{place(name)}:download?alt=media"


def checked(name: str) -> str:
    """Return the name of a batch or a file, which comes from the provider and goes into a target.

    Raises:
        ProviderRejectedError: if it has other characters than names have.
    """
    if not _NAME.fullmatch(name):
        raise ProviderRejectedError("this is no name of a batch or a file", status_code=404)
    return name


def code_of(exc: ProviderError) -> str | None:
    """Return the code of the error that a refusal holds."""
    return error_code(_wire.error_member(exc.body or b""))
