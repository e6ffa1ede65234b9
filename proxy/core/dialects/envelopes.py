"""Errors of our own in the words of each family."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from proxy.core.dialects.records import Family
from proxy.core.errors import CallerError, ProxyError


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error of our own, in the shape that the caller's SDK understands."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


_GEMINI_STATUS: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

_ERROR_INFO: Final = "type.googleapis.com/google.rpc.ErrorInfo"

ANTHROPIC_STATUS: Final[Mapping[str, int]] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The HTTP status of each error type (Anthropic API, "Errors"): lines of a batch name no other."""

_ANTHROPIC_TYPE: Final = {status: kind for kind, status in ANTHROPIC_STATUS.items()}


def error_answer(family: Family, error: ProxyError) -> ErrorAnswer:
    """Return `error` in the error envelope of `family`.

    Sources of the shapes: OpenAI API reference, "Error codes"; Anthropic API,
    "Errors"; Google API design guide, "Error model" (google.rpc.Status).
    Mistral's API description has none but that of 422, which names no code; what it
    sends is read by @ai-sdk/mistral 3.0.69, `mistralErrorDataSchema`.
    """
    status = error.http_status
    content: dict[str, object]
    if family is Family.ANTHROPIC:
        other = "api_error" if status >= 500 else "invalid_request_error"
        kind = _ANTHROPIC_TYPE.get(status, other)
        content = {
            "type": "error",
            "error": {"type": kind, "message": error.message, "code": error.code},
        }
    elif family is Family.GEMINI:
        content = gemini_error(status, error.message, reason=error.code)
    elif family is Family.MISTRAL:
        # Mistral's own is flat, and the AI SDK shows nothing of any other. OpenAI's SDKs,
        # which are used with it too, look into `error`.
        told = openai_error(error)
        content = {"object": "error", **told, "error": told}
    else:
        content = {"error": openai_error(error)}
    headers = [("Content-Type", "application/json")]
    if error.retry_after_s is not None:
        headers.append(("Retry-After", str(error.retry_after_s)))
    return ErrorAnswer(status, tuple(headers), json.dumps(content).encode())


def gemini_error(status: int, message: str, *, reason: str) -> dict[str, object]:
    """Return a failure as Google's APIs word it."""
    name = _GEMINI_STATUS.get(status, "INTERNAL" if status >= 500 else "FAILED_PRECONDITION")
    info = {"@type": _ERROR_INFO, "reason": reason, "domain": "offramp"}
    return {"error": {"code": status, "message": message, "status": name, "details": [info]}}


def openai_error(error: ProxyError) -> dict[str, object]:
    """Return the `error` member that OpenAI's SDKs show the message of."""
    param = error.param if isinstance(error, CallerError) else None
    kind = "invalid_request_error" if error.http_status < 500 else "server_error"
    return {"message": error.message, "type": kind, "param": param, "code": error.code}
