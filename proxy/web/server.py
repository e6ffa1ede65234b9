"""The server of the data port: aiohttp's, with our own words for what is no call at all.

aiohttp answers bytes that are no HTTP by quoting the line at fault, which may be
the one with the key; and a bug of ours by a page of text, which no SDK can read.
"""

from typing import Any

from aiohttp import web

from proxy.core.dialects import Family, error_answer
from proxy.core.errors import CallerError, ProxyError
from proxy.web.forward import SERVER_OPTIONS


class DataServer(web.Server):
    """Serves `handle` with what `web.Server` must be given for calls to pass unchanged."""

    def __init__(self, handle: Any) -> None:
        super().__init__(handle, **SERVER_OPTIONS)

    def __call__(self) -> web.RequestHandler:
        """Return what serves one more connection."""
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be parsed, and what a bug left without an answer."""
        # Logs it, and has the connection closed afterwards.
        theirs = super().handle_error(request, status, exc, message)
        # Whose call it was to be, and so whose errors its SDK reads, is not known.
        answer = error_answer(Family.OPENAI, _error(theirs.status))
        response = web.Response(status=answer.status, headers=answer.headers, body=answer.body)
        response.force_close()
        return response


def _error(status: int) -> ProxyError:
    if status < 500:
        return CallerError(
            "this cannot be read as an HTTP request", code="bad_request", http_status=status
        )
    return ProxyError("the proxy failed: a bug, of which its log tells", code="internal_error")
