"""Answers that are written as bytes, past aiohttp: whole ones of ours, and what stands for them.

aiohttp wants a response of each call that it has given out. Where the answer has been written
already, or will be without it, that response only says whether the connection goes on.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Protocol

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import HttpVersion11

from proxy.core.fields import persistence, response_head

_ENDS: Final = re.compile(r"[\r\n\0]")


class Page(Protocol):
    """A whole answer of ours."""

    @property
    def status(self) -> int:
        """Its status."""
        ...

    @property
    def headers(self) -> Sequence[tuple[str, str]]:
        """Its fields, but for those that frame it."""
        ...

    @property
    def body(self) -> bytes:
        """Its content."""
        ...


def page_for(request: web.BaseRequest, page: Page) -> tuple[bytes, "WrittenResponse"]:
    """Return an answer of ours to that call as it is written, and what stands for it.

    The connection is dropped if the body of the call did not come whole.
    """
    keep_alive = may_go_on(request)
    modern = request.version >= HttpVersion11
    data = written(page, method=request.method, keep_alive=keep_alive, modern=modern)
    return data, already_written(page.status, keep_alive=keep_alive)


def written(page: Page, *, method: str, keep_alive: bool, modern: bool) -> bytes:
    """Return an answer of ours as it is written."""
    # A provider may have said what is told in a field: it must not end that.
    fields = tuple((name.encode(), _ENDS.sub(" ", value).encode()) for name, value in page.headers)
    fields += ((b"Content-Length", b"%d" % len(page.body)),)
    # RFC 9110, section 6.6.1. The same, at the same place, as in answers that aiohttp writes.
    fields += ((b"Date", rfc822_formatted_time().encode()),)
    fields += persistence(keep_alive=keep_alive, modern=modern)
    body = b"" if method == "HEAD" else page.body
    return response_head(page.status, None, fields) + body


def may_go_on(request: web.BaseRequest) -> bool:
    """Return whether another call may follow on the connection, if this one is answered now.

    Not if its body is not here: a caller that waited to be told to send it, and is answered
    instead, may leave it out (RFC 9110, section 10.1.1). The next call, perhaps of somebody else
    behind the same proxy, would be read as that body.
    """
    return request.keep_alive and request.content.is_eof()


class WrittenResponse(web.StreamResponse):
    """An answer that was written already; tells aiohttp only whether to keep the connection."""

    def __init__(self, status: int, *, keep_alive: bool) -> None:
        super().__init__(status=status)
        self._keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:  # noqa: ARG002
        return None

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002
        return None


@lru_cache(maxsize=256)
def already_written(status: int, *, keep_alive: bool) -> WrittenResponse:
    """Return what stands for a written answer; alike answers share one, since none is changed."""
    return WrittenResponse(status, keep_alive=keep_alive)
