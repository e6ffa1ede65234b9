"""xAI's batches and their results as they come, read leniently and made ours.

A batch tells how it stands by counts alone, of which some may be left out, and its times may
be mere dates. A result has no HTTP status: it is a chat completion, or an error as text or as
a `google.rpc.Status`.

Sources: xAI, "Batch API" and REST API reference; types of its Python SDK 1.21.
"""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from pydantic import BeforeValidator

from proxy.core.batch_ends import UNSUPPORTED_MODEL
from proxy.core.refusals import OF_THE_CALL
from proxy.ports.provider import LineKind, ProviderBatch, ProviderBatchState, ResultLine
from proxy.providers import _wire
from proxy.providers.lenient import Id, Lenient, Moment, Word, mapping, read_as
from proxy.providers.result_lines import (
    SCALAR_MEMBERS,
    STRING,
    answer_in,
    parsed_line,
    unreadable,
)

RESULTS: Final = "results:"
"""Begins the name of results: they are no file but pages behind their batch."""

_DATE: Final = timedelta(days=1)
"""What a time without its hours may be off by."""

_COMPLETION: Final = b"chat_get_completion"

_NAMED: Final = re.compile(
    rb"\s*+\{" + SCALAR_MEMBERS + rb'"batch_request_id"\s*+:\s*+(' + STRING + rb")", re.DOTALL
)

_USUAL_HEAD: Final = re.compile(
    rb"\s*+\{"
    + b"".join(
        SCALAR_MEMBERS + rb'"%b"\s*+:\s*+' % name + opening
        for name, opening in (
            (b"batch_result", rb"\{"),
            (b"response", rb"\{"),
            (_COMPLETION, b""),
        )
    ),
    re.DOTALL,
)
_USUAL_TAIL: Final = re.compile(rb"(?:\s*+\}){3}\s*+\Z")

_UNBATCHABLE: Final = re.compile(
    r"(?:^|: )model \S+ is not supported\b|\bnot supported for batch", re.IGNORECASE
)
"""Seen: "JSONL file validation failed: Model grok-4.5 is not supported for batch processing."
(CultivateLabs/raif #525)."""

_NEVER_RUN: Final = re.compile(r"\b(?:cancell?ed|expired)\b", re.IGNORECASE)

_DIGITS: Final = 12

_CANCELLED: Final = 1
_CLIENT_FAULTS: Final = frozenset({3, 5, 9, 11, 12})
"""`google.rpc.Code`: what asking again does not cure. A refused permission is not among them,
and blames no key either: it is told for input that a moderation refused too."""


def _count(value: Any) -> int | None:
    if isinstance(value, str) and value.isdecimal() and len(value) <= _DIGITS:
        # As gateways to gRPC write an int64.
        return int(value)
    return value if type(value) is int and value >= 0 else None


Count = Annotated[int | None, BeforeValidator(_count)]


class Counts(Lenient):
    """How many requests of a batch stand where. A count of none may be left out."""

    num_requests: Count = None
    num_pending: Count = None
    num_success: Count = None
    num_error: Count = None
    num_cancelled: Count = None

    @property
    def answered(self) -> int:
        return (self.num_success or 0) + (self.num_error or 0)

    @property
    def pending(self) -> int:
        """How many are not through. What nobody has counted yet is pending."""
        if self.num_pending is not None:
            return self.num_pending
        return max(0, (self.num_requests or 0) - self.answered - (self.num_cancelled or 0))


class BatchObject(Lenient):
    """The fields of a batch that we depend on."""

    batch_id: Id
    name: Word = None
    create_time: Moment = None
    expire_time: Moment = None
    cancel_time: Moment = None
    cancel_by_xai_message: Word = None
    state: Annotated[Counts, BeforeValidator(mapping)] = Counts()

    @property
    def is_cancelled(self) -> bool:
        return self.cancel_time is not None or self.cancel_by_xai_message is not None


def read_batch(value: object) -> BatchObject | None:
    """Read a batch, or return nothing if it is none."""
    return read_as(BatchObject, value)


def provider_batch(batch: BatchObject, *, now: datetime) -> ProviderBatch:
    """Return the batch in our words, of which the status is one."""
    status, state = _standing(batch, now)
    return ProviderBatch(
        id=batch.batch_id,
        state=state,
        status=status,
        created_at=batch.create_time or now,
        window_ends_at=batch.expire_time,
        count=batch.state.num_requests or None,
        # They can be read while it runs, which matters if it never ends: calls of it may hang.
        output_file_ids=() if status == "failed" else (RESULTS + batch.batch_id,),
        error_code=_failure(batch.cancel_by_xai_message) if status == "failed" else None,
        error_message=_wire.shown(batch.cancel_by_xai_message),
    )


def _standing(batch: BatchObject, now: datetime) -> tuple[str, ProviderBatchState]:
    counts = batch.state
    if counts.pending:
        if batch.expire_time is not None and now >= batch.expire_time + _DATE:
            return "expired", ProviderBatchState.ENDED
        if batch.is_cancelled:
            return "cancelling", ProviderBatchState.CANCELLING
        return "in_progress", ProviderBatchState.RUNNING
    if batch.cancel_by_xai_message is not None and not counts.answered:
        # Its input was refused before anything of it ran.
        return "failed", ProviderBatchState.ENDED
    if batch.is_cancelled:
        return "cancelled", ProviderBatchState.ENDED
    if not counts.num_requests or not (counts.answered or counts.num_cancelled):
        # It has not begun. Taken for an end, it would be bought again beside itself.
        return "validating", ProviderBatchState.RUNNING
    return "expired" if counts.num_cancelled else "completed", ProviderBatchState.ENDED


def _failure(message: str | None) -> str:
    if message is not None and _UNBATCHABLE.search(message):
        return UNSUPPORTED_MODEL
    return _wire.error_code(message) or "batch_failed"


def result_line(line: bytes) -> ResultLine:
    """Read one result; a broken one says so, with its name if that can be read."""
    parsed = parsed_line(line)
    custom_id = parsed.get("batch_request_id") if isinstance(parsed, dict) else None
    if not isinstance(parsed, dict) or not isinstance(custom_id, str) or not custom_id:
        return unreadable(line, _NAMED)
    result = mapping(parsed.get("batch_result"))
    completion = mapping(result.get("response")).get(_COMPLETION.decode())
    if isinstance(completion, dict):
        return _answered(line, custom_id, completion)
    error = result.get("error") or parsed.get("error_message")
    if not error:
        # One that is pending yet, or without its answer.
        return ResultLine(kind=LineKind.UNREADABLE, custom_id=custom_id)
    return ResultLine(kind=LineKind.NOT_EXECUTED, custom_id=custom_id, error_code=_line_code(error))


def _answered(line: bytes, custom_id: str, completion: Mapping[str, Any]) -> ResultLine:
    path = (b"batch_result", b"response", _COMPLETION)
    return ResultLine(
        kind=LineKind.ANSWERED,
        custom_id=custom_id,
        status_code=200,
        body=answer_in(line, path, _USUAL_HEAD, _USUAL_TAIL),
        content=completion,
    )


def _line_code(error: object) -> str:
    number = _count(error.get("code")) if isinstance(error, dict) else None
    text = str(error.get("message") if isinstance(error, dict) else error)
    code = _wire.error_code(text)
    if number in _CLIENT_FAULTS or _UNBATCHABLE.search(text) or code in OF_THE_CALL:
        # Before the words, which may be those of the call: it would be batched without end.
        return "batch_client_error"
    if number == _CANCELLED or _NEVER_RUN.search(text):
        return "batch_cancelled"
    return code or "batch_server_error"
