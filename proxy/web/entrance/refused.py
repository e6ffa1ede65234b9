"""How a call is refused: in the dialect that it speaks, with a time to come back if that helps."""

from dataclasses import replace
from typing import Final

from proxy.core.dialects import ErrorAnswer, Family, error_answer
from proxy.core.errors import CallerError, ProxyError, StoreError

_STORE_PAUSE_S: Final = 5
_DRAIN_PAUSE_S: Final = 1
"""Another instance, or the next process, takes the call at once."""


class StoppingError(ProxyError):
    """This instance stops and makes no promise that it could not keep itself."""

    code = "draining"
    http_status = 503


def refusal(family: Family, error: ProxyError) -> ErrorAnswer:
    """Return the answer to a call that reached nobody."""
    answer = error_answer(family, error)
    if isinstance(error, StoreError):
        pause_s = _STORE_PAUSE_S
    elif isinstance(error, StoppingError):
        pause_s = _DRAIN_PAUSE_S
    else:
        return answer
    headers = (*answer.headers, ("Retry-After", str(pause_s)))
    return ErrorAnswer(answer.status, headers, answer.body)


def unreadable_or_bug(status: int) -> ErrorAnswer:
    """Return the answer where aiohttp has found `status`: 4xx for what it could not read.

    Whose SDK called is not known at that point, so the dialect is OpenAI's.
    """
    error: ProxyError
    if status < 500:
        error = CallerError(
            "this cannot be read as an HTTP request", code="bad_request", http_status=status
        )
    else:
        error = ProxyError("the proxy failed: a bug, of which its log tells", code="internal_error")
    return error_answer(Family.OPENAI, error)


def _too_many_connections() -> ErrorAnswer:
    error = ProxyError("too many connections", code="too_many_connections", http_status=503)
    answer = error_answer(Family.OPENAI, error)
    return replace(answer, headers=(*answer.headers, ("Retry-After", "1")))


TOO_MANY_CONNECTIONS: Final = _too_many_connections()
