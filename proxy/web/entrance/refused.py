"""How a call is refused: in the dialect that it speaks, with a time to come back if that helps."""

from dataclasses import replace
from typing import Final

from proxy.core.dialects import ErrorAnswer, Family, error_answer
from proxy.core.errors import CallerError, ProxyError, StoreError

_STORE_PAUSE_S: Final = 5
"""Told to a call that no job could be made of: it comes again with its whole body, as do all the
others, and meets a store that has just begun to answer. A question about a job is told a shorter
pause."""


class _TooManyConnectionsError(ProxyError):
    """As many callers are connected as may be."""

    code = "too_many_connections"
    http_status = 503
    retry_after_s = 1


def refusal(family: Family, error: ProxyError) -> ErrorAnswer:
    """Return the answer to a call that reached nobody."""
    answer = error_answer(family, error)
    if not isinstance(error, StoreError):
        return answer
    return replace(answer, headers=(*answer.headers, ("Retry-After", str(_STORE_PAUSE_S))))


def unreadable_or_bug(status: int, *, bad_method: bool = False) -> ErrorAnswer:
    """Return the answer where aiohttp has found `status`: 4xx for what it could not read.

    431 is for a head that is too long, or has a line that is, or too many fields;
    `bad_method` for one that does not begin with a method that the parser knows.

    Whose SDK called is not known at that point, so the dialect is OpenAI's.
    """
    error: ProxyError
    if status == 431:
        error = CallerError(
            "the head of this call is too long, in all, in one line or by its number of fields: "
            "callers.max_field_bytes and callers.max_fields of the configuration bound it",
            code="head_too_long",
            http_status=status,
        )
    elif status < 500:
        why = ": it begins with no known method in capital letters, such as POST"
        error = CallerError(
            f"this cannot be read as an HTTP request{why if bad_method else ''}",
            code="bad_request",
            http_status=status,
        )
    else:
        error = ProxyError("the proxy failed: a bug, of which its log tells", code="internal_error")
    return error_answer(Family.OPENAI, error)


TOO_MANY_CONNECTIONS: Final = error_answer(
    Family.OPENAI, _TooManyConnectionsError("too many connections")
)
