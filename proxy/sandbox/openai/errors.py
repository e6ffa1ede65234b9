"""OpenAI's refusals, as its API words and codes them."""

from typing import Any

from proxy.sandbox.wire import ApiError, Reply, json_reply


def error_body(exc: ApiError) -> dict[str, Any]:
    """Return the error envelope of the OpenAI API."""
    return {
        "error": {
            "message": exc.message,
            "type": exc.error_type,
            "param": exc.param,
            "code": exc.code,
        }
    }


def error_reply(exc: ApiError) -> Reply:
    """Return the refusal as an answer."""
    return json_reply(error_body(exc), status=exc.status)


def missing_key() -> ApiError:
    return ApiError(401, "You didn't provide an API key in an Authorization: Bearer header.")


def invalid_key() -> ApiError:
    """Return the refusal of a wrong key. The key itself is not repeated in it."""
    return ApiError(401, "Incorrect API key provided.", code="invalid_api_key")


def quota_exhausted() -> ApiError:
    return ApiError(
        429,
        "You exceeded your current quota, please check your plan and billing details.",
        code="insufficient_quota",
        error_type="insufficient_quota",
    )


def no_batch_scope() -> ApiError:
    return ApiError(
        403,
        "You have insufficient permissions for this operation. Missing scopes: api.batch.write.",
    )


def flex_unavailable() -> ApiError:
    return ApiError(
        429, "Resource Unavailable", code="resource_unavailable", error_type="resource_unavailable"
    )


def model_not_found(model: object) -> ApiError:
    return ApiError(
        404,
        f"The model `{model}` does not exist or you do not have access to it.",
        code="model_not_found",
        param="model",
    )


def missing(param: str) -> ApiError:
    return ApiError(
        400,
        f"Missing required parameter: '{param}'.",
        code="missing_required_parameter",
        param=param,
    )


def invalid(param: str, message: str, *, code: str = "invalid_value") -> ApiError:
    return ApiError(400, message, code=code, param=param)


def unparsable() -> ApiError:
    return ApiError(400, "We could not parse the JSON body of your request.")


def no_such_url(method: str, path: str) -> ApiError:
    return ApiError(404, f"Invalid URL ({method} {path})")


def type_of(status: int) -> str:
    """Return the error type that OpenAI gives with a status, as far as it can be told."""
    if status >= 500 or status == 0:
        return "server_error"
    return "rate_limit_error" if status == 429 else "invalid_request_error"
