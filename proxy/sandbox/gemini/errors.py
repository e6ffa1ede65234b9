"""Gemini's refusals, as its API words them.

Sources: Google API design guide, "Errors" (`google.rpc.Status`, `google.rpc.Code`,
`google.api.ErrorReason`); Gemini API, "Troubleshooting". A wrong key is a 400.
"""

from typing import Any, Final

from proxy.sandbox.wire import ApiError, Reply, json_reply

CODES: Final = {
    400: (3, "INVALID_ARGUMENT"),
    401: (16, "UNAUTHENTICATED"),
    403: (7, "PERMISSION_DENIED"),
    404: (5, "NOT_FOUND"),
    409: (10, "ABORTED"),
    429: (8, "RESOURCE_EXHAUSTED"),
    499: (1, "CANCELLED"),
    503: (14, "UNAVAILABLE"),
    504: (4, "DEADLINE_EXCEEDED"),
}
"""Number and name of what comes with an HTTP status."""

_INTERNAL: Final = (13, "INTERNAL")
_ERROR_INFO: Final = "type.googleapis.com/google.rpc.ErrorInfo"
_DOMAIN: Final = "googleapis.com"


def error_body(exc: ApiError) -> dict[str, Any]:
    """Return the error envelope of the API."""
    error = {"code": exc.status, "message": exc.message, "status": _name(exc)}
    return {"error": error | _details(exc)}


def rpc_status(exc: ApiError) -> dict[str, Any]:
    """Return the refusal as a line of a batch has it: with the number of its code."""
    number, _ = CODES.get(exc.status, _INTERNAL)
    return {"code": number, "message": exc.message} | _details(exc)


def error_reply(exc: ApiError) -> Reply:
    """Return the refusal as an answer."""
    return json_reply(error_body(exc), status=exc.status)


def invalid(message: str) -> ApiError:
    return ApiError(400, message)


def unknown_name(name: str, at: str) -> ApiError:
    """Return the refusal of a field that is none; `at` is where it stands, perhaps empty."""
    place = f" at '{at}'" if at else ""
    return invalid(
        f'Invalid JSON payload received. Unknown name "{name}"{place}: Cannot find field.'
    )


def precondition(message: str) -> ApiError:
    return ApiError(400, message, error_type="FAILED_PRECONDITION")


def bad_key() -> ApiError:
    return ApiError(400, "API key not valid. Please pass a valid API key.", code="API_KEY_INVALID")


def no_key() -> ApiError:
    return ApiError(
        403,
        "Method doesn't allow unregistered callers (callers without established identity).",
    )


def billing_disabled() -> ApiError:
    return ApiError(403, "This API method requires billing to be enabled.", code="BILLING_DISABLED")


def no_batch_scope() -> ApiError:
    return ApiError(
        403,
        "Requests to this API method are blocked.",
        code="API_KEY_SERVICE_BLOCKED",
    )


def quota_exceeded() -> ApiError:
    """Return what an enqueued-token limit looks like: it names no limit and no figure."""
    return ApiError(
        429,
        "You exceeded your current quota, please check your plan and billing details.",
    )


def no_file(name: str) -> ApiError:
    """Return the refusal of a file that is gone, or another's: the two are not told apart."""
    return ApiError(
        403, f"You do not have permission to access the File {name} or it may not exist."
    )


def overloaded() -> ApiError:
    return ApiError(503, "The model is overloaded. Please try again later.")


def no_model(model: str, method: str) -> ApiError:
    return not_found(
        f"models/{model} is not found for API version v1beta, or is not supported for {method}."
    )


def not_found(message: str) -> ApiError:
    return ApiError(404, message)


def _name(exc: ApiError) -> str:
    return exc.error_type if exc.error_type.isupper() else CODES.get(exc.status, _INTERNAL)[1]


def _details(exc: ApiError) -> dict[str, Any]:
    if exc.code is None:
        return {}
    info = {"@type": _ERROR_INFO, "reason": exc.code, "domain": _DOMAIN}
    return {"details": [info]}
