"""OpenAI's batch and file objects as they come, read leniently and made ours.

They vary by who sends them: Azure sends capitalised statuses, times as ISO text and null
counts; Together wraps a new batch, lists without an envelope and says what failed as text
(types of its SDK 3.1); several send empty strings for absent files (Azure OpenAI batch guide;
BerriAI/litellm #33987).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import AliasChoices, BeforeValidator, Field

from proxy.core.batch_ends import TOO_MANY_TOKENS
from proxy.ports.provider import ProviderBatch, ProviderBatchState
from proxy.providers import _wire
from proxy.providers.lenient import (
    Lenient,
    Loose,
    Moment,
    Number,
    Word,
    mapping,
    read_as,
    whole_number,
    word,
)
from proxy.providers.statuses import read_status

_RUNNING, _CANCELLING, _ENDED = (
    ProviderBatchState.RUNNING,
    ProviderBatchState.CANCELLING,
    ProviderBatchState.ENDED,
)

# OpenAI API, object `Batch`, field `status`; in lower case, since Azure capitalises and
# Together shouts. The one word with another spelling is Together's, and in no document.
STATES: Final = {
    "validating": _RUNNING,
    "in_progress": _RUNNING,
    "finalizing": _RUNNING,
    "cancelling": _CANCELLING,
    "canceling": _CANCELLING,
    "completed": _ENDED,
    "failed": _ENDED,
    "expired": _ENDED,
    "cancelled": _ENDED,
}


def _line(value: Any) -> int | None:
    number = whole_number(value)
    return number if number is not None and number > 0 else None


def _entries(value: Any) -> list[Any]:
    """Return the `data` of OpenAI's `errors` member; a bare list is taken for it."""
    data = value.get("data") if isinstance(value, dict) else value
    return [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []


class BatchFailure(Lenient):
    """An entry of `errors.data`. Validation stops at the first bad line: there is one."""

    code: Word = None
    message: Word = None
    line: Annotated[int | None, BeforeValidator(_line)] = None
    """Counted from 1."""


class BatchObject(Lenient):
    """The fields of a Batch object that we depend on."""

    id: str
    status: Word = None
    created_at: Moment = None
    expires_at: Moment = Field(
        default=None, validation_alias=AliasChoices("expires_at", "job_deadline")
    )
    input_file_id: Word = None
    output_file_id: Word = None
    error_file_id: Word = None
    errors: Annotated[list[BatchFailure], BeforeValidator(_entries)] = Field(default_factory=list)
    error: Word = None
    metadata: Loose = Field(default_factory=dict)
    request_counts: Loose = Field(default_factory=dict)


class FileObject(Lenient):
    """The fields of a File object that we depend on."""

    id: str
    filename: Word = None
    bytes: Number = None
    status: Word = None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list: its readable entries as they came, and whether there are more."""

    entries: list[dict[str, Any]]
    has_more: bool
    last_id: str | None
    cursor: str | None = None
    """What the next page is asked for by, where that is no ID (Groq, "Batch": `paging`)."""

    total: int = 0
    """How many entries all pages have, as far as that is told."""

    @property
    def next_query(self) -> tuple[str, str] | None:
        """The parameter that asks for the next page; nothing if there is none, or no way to it."""
        if self.cursor is not None:
            return "cursor", self.cursor
        return ("after", self.last_id) if self.has_more and self.last_id is not None else None


def read_page(value: object, *, may_be_bare: bool = False, limit: int | None = None) -> Page | None:
    """Read a list object, or return nothing if it is none.

    A bare list is one only where the provider is known to send such: from any other
    an empty one would prove too much. So would a page of `limit` entries that does not say
    whether it is the last one: it is taken for one that is not.
    """
    if may_be_bare and isinstance(value, list):
        value = {"data": value}
    data = value.get("data") if isinstance(value, dict) else None
    if data is None and isinstance(value, dict) and value.get("object") == "list":
        # An empty one: the member may be absent then (Mistral API, `BatchJobsOut`). Taken for
        # no list, a search would never come to an end.
        data = []
    if not isinstance(value, dict) or not isinstance(data, list):
        return None
    entries = [entry for entry in data if isinstance(entry, dict)]
    ids = [entry["id"] for entry in entries if word(entry.get("id"))]
    cursor = word(mapping(value.get("paging")).get("next_cursor"))
    told = value.get("has_more")
    is_full = limit is not None and told is None and len(data) >= limit
    has_more = told is True or cursor is not None or is_full
    total = whole_number(value.get("total")) or 0
    return Page(entries, has_more, ids[-1] if ids else None, cursor, total)


def read_batch(value: object) -> BatchObject | None:
    """Read a Batch object, wrapped as `job` or not, or return nothing if it is none."""
    if isinstance(value, dict) and isinstance(value.get("job"), dict):
        value = value["job"]
    batch = read_as(BatchObject, value)
    return batch if batch is not None and _is_name(batch.id) else None


def read_file(value: object) -> FileObject | None:
    """Read a File object, or return nothing if it is none."""
    file = read_as(FileObject, value)
    return file if file is not None and _is_name(file.id) else None


def _is_name(name: str) -> bool:
    """Return whether something can be asked for by an ID: dots alone lead to another path."""
    return name.strip(".") != ""


def provider_batch(
    batch: BatchObject,
    states: Mapping[str, ProviderBatchState],
    *,
    provider: str,
    now: datetime,
) -> ProviderBatch:
    """Return the batch in our words."""
    status, state = read_status(batch.status, states, provider=provider, provider_batch_id=batch.id)
    failure = batch.errors[0] if batch.errors else BatchFailure(message=batch.error)
    code = failure.code
    if status == "failed" and _wire.is_token_limit({"message": failure.message}):
        # Known by its words alone, like the refusal of a create: without the code it looks like
        # a bad line, for which jobs are called directly in the end.
        code = TOO_MANY_TOKENS
    files = (batch.output_file_id, batch.error_file_id)
    return ProviderBatch(
        id=batch.id,
        state=state,
        status=status,
        created_at=batch.created_at or now,
        window_ends_at=batch.expires_at,
        output_file_ids=tuple(dict.fromkeys(file for file in files if file and _is_name(file))),
        lacks_answers=batch.output_file_id is None
        and (whole_number(batch.request_counts.get("completed")) or 0) > 0,
        # A batch that failed ran nothing, which without a code would not show.
        error_code=code or ("batch_failed" if status == "failed" else None),
        error_message=_wire.shown(failure.message),
        error_line=failure.line,
    )
