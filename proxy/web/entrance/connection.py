"""One caller's connection to the data port.

What it adds to aiohttp's: calls that take a shortcut, an end that loses nothing and shows
what is not whole, and errors of our own. aiohttp answers bytes that are not HTTP by quoting
the offending line, which may be the one with the key; and it answers a bug of ours with a
page of text, which no SDK can read.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, BadHttpMethod, LineTooLong
from aiohttp.streams import StreamReader

from proxy.core.dialects import ErrorAnswer
from proxy.web.answering.final import flush_bytes, response_of
from proxy.web.entrance.known_heads import KnownCall
from proxy.web.entrance.parser_watch import Finding, ParserWatch
from proxy.web.entrance.refused import unreadable_or_bug
from proxy.web.entrance.write_progress import WriteProgress
from proxy.web.forwarding.boundary import Boundary
from proxy.web.forwarding.downstream import ShortcutCall
from proxy.web.forwarding.endings import cut, resets_on_close
from proxy.web.pages import written

_CUT_WITHIN_S: Final = 1.0
"""How long a call may take to end once it is cut off: meanwhile its notes are written."""

_AWAITED_BYTES: Final = 1 << 16
"""The longest body that is awaited before its call is sent; longer ones go as they come."""

Find = Callable[[bytes], KnownCall | None]
"""Returns the call that a whole head begins, if it may take a shortcut."""


class CallerConnection(web.RequestHandler):
    """One caller's connection: aiohttp's, but for the calls that take a shortcut.

    A call takes it if it comes while aiohttp's own task waits for the next one, and if it is
    certain that its first byte begins a head. aiohttp's parser sees nothing of it. While it
    is on its way, what that task waits for is put aside: what comes meanwhile does not wake it.
    """

    __slots__ = (
        "_aside",
        "_boundary",
        "_call",
        "_early",
        "_find",
        "_idle_since",
        "_parser_watch",
        "_served",
        "_unsent",
        "_wire",
        "_write_progress",
    )

    def __init__(
        self, manager: web.Server, find: Find | None, *, max_head_bytes: int, **options: Any
    ) -> None:
        """`find` says which calls may take a shortcut; without it none may.

        `options` are those of `web.RequestHandler`.
        """
        super().__init__(manager, **options)
        # aiohttp's parser counts the call that is being served as well, if its body came after
        # that had begun, and holds back what is behind so many. aiohttp asks for that only once
        # as many wait: with one less it would wait for ever.
        self._max_msg_queue_size -= 1
        self._find = find
        self._boundary = Boundary()
        """Whether it is certain that the next byte begins a head."""
        self._parser_watch = ParserWatch(max_head_bytes)
        """What aiohttp's parser does not say of what it was given."""
        self._early = b""
        """What came while aiohttp's task was about to wait for it."""
        self._unsent = b""
        """A call that may take the shortcut, as far as it came."""
        self._call: ShortcutCall | None = None
        """The call that has taken the shortcut, until its answer is written."""
        self._aside: asyncio.Future[None] | None = None
        """What aiohttp's task waits for meanwhile: there exactly as long as `_call` is."""
        self._idle_since = self._loop.time()
        self._served = 0
        """How many calls had begun when the sweep last asked."""
        self._wire: asyncio.Transport | None = None
        """The transport, also while it is closing, when aiohttp knows it no more."""
        self._write_progress = WriteProgress(since=self._idle_since)

    def stop_awaiting(self) -> None:
        """Wait no longer for the rest of a body: relay it as it comes."""
        data, self._unsent = self._unsent, b""
        if data:
            self._feed(data)

    def is_overdue(self, now: float, limit_s: float) -> bool:
        """Tell whether no head has come for so long; to be asked now and then."""
        if self._upgraded and self._waiter is not None and not self._is_serving:
            # A switch was declined before its call was all here: aiohttp waits for the next
            # one, and keeps what comes for another protocol.
            return True
        if self._is_serving or self._request_count != self._served:
            self._served = self._request_count
            self._idle_since = now
        return now - self._idle_since > limit_s

    def takes_nothing(self, now: float, limit_s: float) -> bool:
        """Tell whether the caller has taken nothing for `limit_s`; to be asked now and then."""
        return self._write_progress.is_overdue(self._wire, now, limit_s)

    def abort(self) -> None:
        """Cut the connection, whatever waits to be taken: closing would wait for that."""
        if self._wire is not None:
            self._wire.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast("asyncio.Transport", transport)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._early:
            self._early += data
        elif self._find is None or (
            # `_is_serving`, written out: whatever comes passes here.
            self._request_in_progress or self._messages or self._call is not None
        ):
            self._feed(data)
        elif self._waiter is not None:
            self._take(data, self._find)
        else:
            # aiohttp's task has just begun, or ended a call, and waits in a moment.
            self._loop.call_soon(self._take_early)
            self._early = data

    def resume_reading(self, resume_parser: bool = True) -> None:
        # aiohttp calls it at the end of each body and as that is read, held up or not.
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._call is not None:
            self._call.news()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._wire = None
        if self._call is not None:
            self._call.caller_left()
        super().connection_lost(exc)

    def _feed(self, data: bytes) -> None:
        """Give aiohttp what is not known to be a call for the shortcut."""
        if self._find is not None:
            self._boundary.follow(data)
        # Once it is told to close, aiohttp drops all that comes, even the body of a call that
        # is being served, or is about to be. So that is hidden from it while one is. Whatever
        # else arrives then is never looked at: no further call is begun.
        closing, self._close = self._close, self._close and not self._is_serving
        came = self._request_count
        self._parser_watch.before(self._newest_body())
        super().data_received(data)
        self._close = self._close or closing
        if self._payload_parser is None:
            came = self._request_count - came
            newest = self._messages[-1] if self._messages else None
            self._heed(self._parser_watch.after(data, came, newest, kept=self._upgraded))

    def _newest_body(self) -> StreamReader | None:
        if self._messages:
            return self._messages[-1][1]
        return self._current_request.content if self._current_request is not None else None

    def _heed(self, finding: Finding) -> None:
        match finding:
            case Finding.FINE:
                return
            case Finding.FORGOTTEN:
                self.close()
            case Finding.MALFORMED:
                # Whoever serves the call tells that.
                self._messages.pop()
                self.close()
            case Finding.TOO_LONG:
                if self._waiter is not None and self.transport is not None:
                    page = unreadable_or_bug(431)
                    self.transport.write(written(page, method="GET", keep_alive=False, modern=True))
                self.force_close()

    def _take_early(self) -> None:
        data, self._early = self._early, b""
        if self._manager is None:
            return
        if self._waiter is not None and self._find is not None:
            self._take(data, self._find)
        else:
            self._feed(data)

    # The shortcuts.

    def _take(self, data: bytes, find: Find) -> None:
        """Let what came take a shortcut, if it may, as soon as it is here to its end."""
        if not self._boundary.is_plain or self._messages or self._close:
            self._feed(data)
            return
        self._unsent = data = self._unsent + data if self._unsent else data
        end = data.find(b"\r\n\r\n") + 4
        known = find(data[:end]) if end > 3 else None
        missing = -1 if known is None else end + known.body_bytes - len(data)
        if known is None or missing < 0 or known.body_bytes > _AWAITED_BYTES:
            self.stop_awaiting()
        elif missing == 0:
            self._call = known.begin(data[end:], self)
            if self._call is None:
                self.stop_awaiting()
                return
            self._unsent = b""
            self._request_count += 1
            self._aside, self._waiter = self._waiter, None

    @property
    def is_ending(self) -> bool:
        """Whether no call may follow the one that is on its way."""
        return bool(self._close or self._force_close)

    async def flush(self, data: bytes) -> bool:
        """Write to the caller; tell whether the operating system has taken all of it."""
        return await flush_bytes(self, data)

    def call_failed(self, exc: Exception) -> None:
        """Learn of a bug that left the call without an answer."""
        self.log_exception("Error handling request", exc_info=exc)
        if self.transport is not None:
            page = unreadable_or_bug(500)
            self.transport.write(written(page, method="POST", keep_alive=False, modern=True))
        self.call_ended(keep_alive=False)

    def call_ended(self, *, keep_alive: bool) -> None:
        """Learn that the answer is written, and whether another call may follow."""
        self._call = None
        self._waiter, self._aside = self._aside, None
        if self.is_ending or not keep_alive:
            # It ends aiohttp's task too, which the end of the server waits for.
            self.close()
            if self.transport is not None:
                self.transport.close()
        elif self._messages and self._waiter is not None:
            self._waiter.set_result(None)

    # The end.

    def _process_keepalive(self) -> None:
        """Do nothing: the sweep ends silent connections, and knows of calls on the shortcut."""

    def close(self) -> None:
        """Take no more calls; the one that is on its way is finished."""
        self.stop_awaiting()
        super().close()

    def force_close(self) -> None:
        """End the connection at once, so that an unfinished answer does not look whole."""
        if resets_on_close(self.transport):
            cut(self.transport, until_close=True)
        super().force_close()

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
        # Methods are case-sensitive (RFC 9110, section 9.1), and llhttp has a list of them.
        bad_method = isinstance(exc, BadHttpMethod)
        status = 431 if _is_too_long(exc) else theirs.status
        return last_answer(unreadable_or_bug(status, bad_method=bad_method))

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 - aiohttp's
        """Give the call that is on its way `timeout` to end, then cut it off.

        aiohttp alone would hold it for as long again, until a supervisor kills the process, and
        then take its connection away before its handler hears of that.
        """
        serving = self._task_handler
        if serving is not None and self._is_serving:
            await asyncio.wait([serving], timeout=timeout)
            if not serving.done():
                self.cut_off()
                await asyncio.wait([serving], timeout=_CUT_WITHIN_S)
        await super().shutdown(_CUT_WITHIN_S)

    def cut_off(self) -> None:
        """End the call that is on its way, if any; its caller sees a broken connection."""
        # Whoever is held is noted as cut off while the connection still stands.
        if self._task_handler is not None and self._is_serving:
            self._task_handler.cancel()

    @property
    def _is_serving(self) -> bool:
        """Whether a call is here whose answer is not."""
        return bool(self._request_in_progress or self._messages or self._call is not None)


def _is_too_long(exc: BaseException | None) -> bool:
    """Tell whether a head was refused for its length; aiohttp calls it a bad one."""
    # Too many fields are told by its message alone.
    too_many = isinstance(exc, BadHttpMessage) and exc.message.startswith("Too many headers")
    return too_many or isinstance(exc, LineTooLong)


def last_answer(answer: ErrorAnswer) -> web.Response:
    """Return an answer of ours, after which its connection ends."""
    response = response_of(answer)
    response.force_close()
    return response
