"""Gemini's results: lines of a file, or elements of a list that an operation carries inline.

A line is `{"key": ..., "response": ...}`, an element has its key in `metadata`; either
has `error` (or, seen as well, `status`) in place of the response, a `google.rpc.Status`
with the number of its code (google-genai SDK 3.6, `InlinedResponse`; Gemini API,
"Batch API").
"""

import json
import re
from collections.abc import Mapping
from typing import Final

from proxy.core.refusals import error_code
from proxy.ports.provider import LineKind, ResultLine
from proxy.providers.gemini_objects import rpc_name
from proxy.providers.item_cutter import ItemCutter
from proxy.providers.result_lines import (
    SCALAR_MEMBERS,
    STRING,
    answer_in,
    parsed_line,
    unreadable,
)

_NAMED: Final = re.compile(
    rb'\s*+\{\s*+(?:"metadata"\s*+:\s*+\{\s*+)?+"key"\s*+:\s*+(' + STRING + rb")", re.DOTALL
)
_USUAL_HEAD: Final = re.compile(rb"\s*+\{" + SCALAR_MEMBERS + rb'"response"\s*+:\s*+', re.DOTALL)
_USUAL_TAIL: Final = re.compile(rb"\s*+\}\s*+\Z")


def result_line(line: bytes) -> ResultLine:
    """Read one line or element; a broken one says so, with its key if that can be read."""
    parsed = parsed_line(line)
    if not isinstance(parsed, dict):
        return unreadable(line, _NAMED)
    custom_id = _key(parsed)
    if custom_id is None:
        return unreadable(line, _NAMED)
    refusal = _refusal(parsed)
    # An answer counts wherever there is one, and nothing at all beside an error is none.
    if isinstance(parsed.get("response"), dict) and (parsed["response"] or refusal is None):
        return ResultLine(
            kind=LineKind.ANSWERED,
            custom_id=custom_id,
            status_code=200,
            body=answer_in(line, (b"response",), _USUAL_HEAD, _USUAL_TAIL),
            content=parsed["response"],
        )
    if refusal is not None:
        return _refused(custom_id, refusal)
    return ResultLine(kind=LineKind.UNREADABLE, custom_id=custom_id)


def inline_cutter() -> ItemCutter:
    """Return what cuts the elements out of an operation as it streams in."""
    return ItemCutter("inlinedResponses", result_line, is_nested=True)


def _refusal(parsed: Mapping[str, object]) -> Mapping[str, object] | None:
    for name in ("error", "status"):
        error = parsed.get(name)
        if isinstance(error, dict) and error:
            return error
    return None


def _key(parsed: Mapping[str, object]) -> str | None:
    metadata = parsed.get("metadata")
    for holder in (parsed, metadata):
        key = holder.get("key") if isinstance(holder, dict) else None
        if isinstance(key, str) and key:
            return key
    return None


def _refused(custom_id: str, error: Mapping[str, object]) -> ResultLine:
    """Return the answer that the API gives for an error: its envelope, with the HTTP status."""
    status, name = rpc_name(error)
    message = error.get("message")
    told: dict[str, object] = {
        "code": status,
        "message": message if isinstance(message, str) else "",
        "status": name,
    }
    if error.get("details"):
        told["details"] = error["details"]
    return ResultLine(
        kind=LineKind.ANSWERED,
        custom_id=custom_id,
        status_code=status,
        body=json.dumps({"error": told}).encode(),
        error_code=error_code(told),
    )
