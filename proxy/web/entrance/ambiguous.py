"""Calls that aiohttp's parser takes, and that somebody behind it may read differently. Pure.

What one reader takes for a body is the next call to another one; and at an upstream, the
next call on that connection is somebody else's. nginx refuses the same.
"""

from typing import Final

from aiohttp import web
from aiohttp.hdrs import CONTENT_LENGTH, METH_CONNECT, TRANSFER_ENCODING
from aiohttp.http import HttpVersion10, HttpVersion11

from proxy.core.errors import CallerError
from proxy.core.fields import LENGTH_DIGITS_MAX

_VERSIONS: Final = (HttpVersion11, HttpVersion10)


def ambiguity(request: web.BaseRequest) -> CallerError | None:
    """Return why a call goes nowhere, if its head leaves a doubt about where it ends."""
    if request.version not in _VERSIONS:
        return _refused("this speaks HTTP/1.1 and HTTP/1.0", status=505)
    if request.method == METH_CONNECT:
        return _refused("this is no forward proxy: it knows no CONNECT", status=405)
    coding = request.headers.get(TRANSFER_ENCODING)
    if coding is not None:
        if request.version < HttpVersion11:
            # RFC 9112, section 6.1: its framing is faulty.
            return _refused("HTTP/1.0 knows no Transfer-Encoding", status=400)
        if coding.lower() != "chunked":
            return _refused("of transfer codings this knows `chunked`, alone", status=501)
    length = request.headers.get(CONTENT_LENGTH)
    if length is not None and len(length) > LENGTH_DIGITS_MAX:
        return _refused("no body is as long as Content-Length says", status=413)
    return None


def _refused(message: str, *, status: int) -> CallerError:
    return CallerError(message, code="bad_request", http_status=status)
