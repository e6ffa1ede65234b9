"""Gemini's operations and files as they come, read leniently and made ours.

Sources: google-genai SDK 3.6, `batches` and `files`; Gemini API, "Batch API". A batch is
a long-running operation (`google.longrunning.Operation`), whose metadata is the batch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field

from proxy.core.batch_ends import TOO_MANY_TOKENS
from proxy.core.refusals import error_code
from proxy.ports.provider import ProviderBatch, ProviderBatchState
from proxy.providers import _wire
from proxy.providers.lenient import Lenient, Loose, Moment, Word, mapping, read_as
from proxy.providers.statuses import read_status

WINDOW: Final = timedelta(hours=48)
"""A batch that is not finished by then expires ("Batch API": pending or running for more)."""

_RUNNING, _CANCELLING, _ENDED = (
    ProviderBatchState.RUNNING,
    ProviderBatchState.CANCELLING,
    ProviderBatchState.ENDED,
)

# In lower case, after `BATCH_STATE_` or `JOB_STATE_`: the API writes the one and its SDK the
# other. The words that only Vertex AI documents are taken too, since its jobs share the SDK's
# type.
_STATES: Final = {
    "unspecified": _RUNNING,
    "queued": _RUNNING,
    "pending": _RUNNING,
    "running": _RUNNING,
    "paused": _RUNNING,
    "updating": _RUNNING,
    "cancelling": _CANCELLING,
    "succeeded": _ENDED,
    "partially_succeeded": _ENDED,
    "failed": _ENDED,
    "cancelled": _ENDED,
    "expired": _ENDED,
}
_PREFIX: Final = re.compile(r"(?:BATCH|JOB)_STATE_")

UNANSWERED: Final = {"cancelled": "batch_cancelled", "expired": "batch_expired"}
"""Ends that leave no results, and what they are called where they bought none for certain."""

RPC_STATUS: Final = {
    1: (499, "CANCELLED"),
    2: (500, "UNKNOWN"),
    3: (400, "INVALID_ARGUMENT"),
    4: (504, "DEADLINE_EXCEEDED"),
    5: (404, "NOT_FOUND"),
    6: (409, "ALREADY_EXISTS"),
    7: (403, "PERMISSION_DENIED"),
    8: (429, "RESOURCE_EXHAUSTED"),
    9: (400, "FAILED_PRECONDITION"),
    10: (409, "ABORTED"),
    11: (400, "OUT_OF_RANGE"),
    12: (501, "UNIMPLEMENTED"),
    13: (500, "INTERNAL"),
    14: (503, "UNAVAILABLE"),
    15: (500, "DATA_LOSS"),
    16: (401, "UNAUTHENTICATED"),
}
"""HTTP status and name of each number (`google.rpc.Code`): lines and ends have no other."""

_PLACE: Final = re.compile(r"\brequests\[(\d{1,9})\]")
_LINE: Final = re.compile(r"\b(?:line|row)\s+(\d{1,9})\b", re.IGNORECASE)


def _count(value: Any) -> int | None:
    """Return an int64, which JSON has as text (protocol buffers, "JSON mapping")."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        return int(value)
    except ValueError:
        return None


Count = Annotated[int | None, BeforeValidator(_count)]


class _Stats(Lenient):
    total: Count = Field(default=None, alias="requestCount")
    successful: Count = Field(default=None, alias="successfulRequestCount")
    failed: Count = Field(default=None, alias="failedRequestCount")


class _Metadata(Lenient):
    state: Word = None
    display_name: Word = Field(default=None, alias="displayName")
    created_at: Moment = Field(default=None, alias="createTime")
    stats: Annotated[_Stats, BeforeValidator(mapping)] = Field(
        default_factory=_Stats, alias="batchStats"
    )
    output: Loose = Field(default_factory=dict)
    input: Loose = Field(default_factory=dict, alias="inputConfig")


class OperationObject(Lenient):
    """The fields of an Operation that we depend on.

    One that cannot be read is as if absent: an operation that was not known for its sake would
    be missing from the list in which a create without an answer is searched for, and be bought
    a second time.
    """

    name: str = Field(pattern=r"^batches/[A-Za-z0-9_-]{1,256}$")
    done: Annotated[bool, BeforeValidator(lambda value: value in (True, "true"))] = False
    metadata: Annotated[_Metadata, BeforeValidator(mapping)] = Field(default_factory=_Metadata)
    error: Loose = Field(default_factory=dict)
    response: Loose = Field(default_factory=dict)

    @property
    def responses_file(self) -> str | None:
        """The file with its results, where they are not inline."""
        names = (told.get("responsesFile") for told in (self.metadata.output, self.response))
        return next((name for name in names if isinstance(name, str) and name), None)

    @property
    def input_file(self) -> str | None:
        """The file with its requests, where they are not inline."""
        name = self.metadata.input.get("fileName")
        return name if isinstance(name, str) else None


class FileObject(Lenient):
    """The fields of a File that we depend on."""

    name: str = Field(pattern=r"^files/[A-Za-z0-9_-]{1,256}$")
    display_name: Word = Field(default=None, alias="displayName")
    size: Count = Field(default=None, alias="sizeBytes")
    state: Word = None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list."""

    entries: list[object]
    next_token: str | None


def read_operation(value: object) -> OperationObject | None:
    """Read an Operation, or return nothing if it is no batch."""
    return read_as(OperationObject, value)


def read_file(value: object) -> FileObject | None:
    """Read a File, or return nothing if it is none."""
    return read_as(FileObject, value)


def read_page(value: object, name: str) -> Page | None:
    """Read a page whose entries are called `name`; an empty one has no such member."""
    if not isinstance(value, dict):
        return None
    entries, token = value.get(name, []), value.get("nextPageToken")
    if not isinstance(entries, list):
        return None
    return Page(entries, token if isinstance(token, str) and token else None)


def provider_batch(operation: OperationObject, *, now: datetime) -> ProviderBatch:
    """Return the batch in our words.

    An operation that says that it is done is, whatever its state. Results go by the batch's
    own name, whether they are inline or in a file, since deleting it deletes both.
    """
    metadata = operation.metadata
    word = _PREFIX.sub("", (metadata.state or "").strip(), count=1)
    status, state = read_status(word, _STATES, provider="gemini", provider_batch_id=operation.name)
    if operation.done:
        state = _ENDED
    created = metadata.created_at or now
    code, message = _failure(operation, status) if state is _ENDED else (None, None)
    return ProviderBatch(
        id=operation.name,
        state=state,
        status=status,
        created_at=created,
        window_ends_at=created + WINDOW,
        count=metadata.stats.total,
        output_file_ids=(operation.name,) if state is _ENDED else (),
        error_code=code,
        error_message=_wire.shown(message),
        error_line=line_of(message),
    )


def rpc_name(error: Mapping[str, object]) -> tuple[int, str]:
    """Return HTTP status and name of an error; an HTTP status is taken as such.

    By its number, also if that is text; by its name, where it has no number.
    """
    number = _count(error.get("code"))
    if number is None:
        name = error.get("status")
        return next((one for one in RPC_STATUS.values() if one[1] == name), RPC_STATUS[2])
    if 400 <= number <= 599:
        found = next((one for one in RPC_STATUS.values() if one[0] == number), None)
        return found or (number, "UNKNOWN")
    return RPC_STATUS.get(number, RPC_STATUS[2])


def line_of(message: str | None) -> int | None:
    """Return the 1-based line that a complaint names, if it names one.

    Inlined requests are named by their path in the message ("Invalid value at
    'batch.input_config.requests.requests[3]…'"), from 0; rows of files by number, if at all.
    """
    if message is None:
        return None
    if place := _PLACE.search(message):
        return int(place[1]) + 1
    line = _LINE.search(message)
    return int(line[1]) if line and int(line[1]) > 0 else None


def _failure(operation: OperationObject, status: str) -> tuple[str | None, str | None]:
    """Return why an ended batch bought nothing, if that is certain.

    One that was cancelled or has expired has no results, and may have executed a part
    of its requests all the same; only its counts can tell that it did not.
    """
    stats = operation.metadata.stats
    if status in UNANSWERED:
        untouched = stats.total is not None and not stats.successful and not stats.failed
        return (UNANSWERED[status] if untouched else None), None
    if status != "failed" or operation.metadata.output:
        return None, None
    _, name = rpc_name(operation.error)
    message = operation.error.get("message")
    code = error_code({**operation.error, "code": None, "status": name}) or name
    return (
        TOO_MANY_TOKENS if code == "RESOURCE_EXHAUSTED" else code,
        message if isinstance(message, str) else None,
    )
