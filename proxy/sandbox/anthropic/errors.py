"""Anthropic's refusals, as its API words and types them.

Source: Anthropic API, "Errors" (docs, 2026-09-20).
"""

from typing import Any, Final

from proxy.sandbox.wire import ApiError, Reply, json_reply

STATUS_OF: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_TYPE_OF: Final = {status: kind for kind, status in STATUS_OF.items()}


def type_of(status: int) -> str:
    """Return the error type that comes with a status."""
    known = _TYPE_OF.get(status)
    return known or ("invalid_request_error" if 400 <= status < 500 else "api_error")


def error_body(exc: ApiError, request_id: str) -> dict[str, Any]:
    """Return the error envelope of the API."""
    kind = exc.error_type if exc.error_type in STATUS_OF else None
    if kind is None or (kind == "invalid_request_error" and exc.status != 400):
        kind = type_of(exc.status)
    error = {"type": kind, "message": exc.message}
    return {"type": "error", "error": error, "request_id": request_id}


def error_reply(exc: ApiError, request_id: str) -> Reply:
    """Return the refusal as an answer."""
    return json_reply(error_body(exc, request_id), status=exc.status)


def invalid(message: str) -> ApiError:
    return ApiError(400, message)


def missing(param: str) -> ApiError:
    return invalid(f"{param}: Field required")


def bad_key(*, has_credential: bool) -> ApiError:
    """Return the refusal of a wrong or absent key. The key itself is not repeated in it."""
    message = "invalid x-api-key" if has_credential else "x-api-key header is required"
    return ApiError(401, message, error_type="authentication_error")


def credit_exhausted() -> ApiError:
    return ApiError(
        402, "Your credit balance is too low to access the API.", error_type="billing_error"
    )


def no_batch_scope() -> ApiError:
    return ApiError(
        403,
        "Your API key does not have permission to use the specified resource.",
        error_type="permission_error",
    )


def not_found(what: str) -> ApiError:
    return ApiError(404, what, error_type="not_found_error")


def too_large() -> ApiError:
    return ApiError(
        413, "Request exceeds the maximum allowed number of bytes.", error_type="request_too_large"
    )
