"""How a call is refused by us: in its own dialect, and with when to come again."""

from typing import Final

from proxy.core.dialects import ErrorAnswer, Family, error_answer
from proxy.core.errors import ProxyError, StoreError

_STORE_PAUSE_S: Final = 5
_DRAIN_PAUSE_S: Final = 1
"""Another instance, or the next process, takes the call at once."""


class StoppingError(ProxyError):
    """This instance stops and makes no promise that it could not keep itself."""

    code = "draining"
    http_status = 503
    retryable = True


def refusal(family: Family, error: ProxyError) -> ErrorAnswer:
    """Return what a caller is told whose call reached nobody."""
    answer = error_answer(family, error)
    if isinstance(error, StoreError):
        pause_s = _STORE_PAUSE_S
    elif isinstance(error, StoppingError):
        pause_s = _DRAIN_PAUSE_S
    else:
        return answer
    headers = (*answer.headers, ("Retry-After", str(pause_s)))
    return ErrorAnswer(answer.status, headers, answer.body)
