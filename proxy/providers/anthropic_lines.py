"""Lines of Anthropic's result streams.

A line is `{"custom_id": ..., "result": {"type": ..., ...}}` (Anthropic SDK 2.12,
`MessageBatchIndividualResponse`). It names no HTTP status; the type of an error
stands for one.
"""

import re
from collections.abc import Mapping
from typing import Final

from proxy.core.dialects import ANTHROPIC_STATUS
from proxy.ports.provider import LineKind, ResultLine
from proxy.providers import _wire
from proxy.providers.result_lines import (
    SCALAR_MEMBERS,
    answer_in,
    parsed_line,
    unreadable,
)

_UNKNOWN_ERROR_STATUS: Final = 500
"""For an error type that is new: tried again, a few times."""

_NOT_EXECUTED: Final[Mapping[object, str]] = {
    # With two l as well, as everywhere but in the word that is documented.
    **dict.fromkeys(("canceled", "cancelled"), "cancelled"),
    "expired": "expired",
}

_USUAL_HEAD: Final = {
    member: re.compile(
        rb"\s*+\{"
        + SCALAR_MEMBERS
        + rb'"result"\s*+:\s*+\{'
        + SCALAR_MEMBERS
        + rb'"%b"\s*+:\s*+' % member,
        re.DOTALL,
    )
    for member in (b"message", b"error")
}
_USUAL_TAIL: Final = re.compile(rb"\s*+\}\s*+\}\s*+\Z")


def result_line(line: bytes) -> ResultLine:
    """Read one line; a broken one says so, with its `custom_id` if that can be read."""
    parsed = parsed_line(line)
    custom_id = parsed.get("custom_id") if isinstance(parsed, dict) else None
    if not isinstance(parsed, dict) or not isinstance(custom_id, str) or not custom_id:
        return unreadable(line)
    result = parsed.get("result")
    if isinstance(result, dict):
        if isinstance(result.get("message"), dict):
            return _answered(line, custom_id, b"message", 200, content=result["message"])
        if isinstance(result.get("error"), dict):
            return _refused(line, custom_id, result["error"])
        kind = result.get("type")
        if isinstance(kind, str) and kind in _NOT_EXECUTED:
            return ResultLine(
                kind=LineKind.NOT_EXECUTED,
                custom_id=custom_id,
                error_code=_NOT_EXECUTED[kind],
            )
    return ResultLine(kind=LineKind.UNREADABLE, custom_id=custom_id)


def _refused(line: bytes, custom_id: str, envelope: dict[str, object]) -> ResultLine:
    """Return the answer that the API gives for an error: the envelope is its very body."""
    error = envelope.get("error")
    kind = error.get("type") if isinstance(error, dict) else None
    return _answered(
        line,
        custom_id,
        b"error",
        ANTHROPIC_STATUS.get(str(kind), _UNKNOWN_ERROR_STATUS),
        request_id=_wire.request_id(envelope.get("request_id")),
        error_code=kind if isinstance(kind, str) else None,
        content=envelope,
    )


def _answered(
    line: bytes,
    custom_id: str,
    member: bytes,
    status: int,
    *,
    content: object,
    request_id: str | None = None,
    error_code: str | None = None,
) -> ResultLine:
    return ResultLine(
        kind=LineKind.ANSWERED,
        custom_id=custom_id,
        status_code=status,
        body=answer_in(line, (b"result", member), _USUAL_HEAD[member], _USUAL_TAIL),
        request_id=request_id,
        error_code=error_code,
        content=content,
    )
