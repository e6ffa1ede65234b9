"""The shortcut of forwarded calls: from bytes to bytes, without a task.

What aiohttp makes for each call (a task, a request, a writer, a context) takes as long
as relaying it. Most calls need none of that: the head came before, the body is whole, a
connection to the upstream is free. Such a call is sent in the turn of the loop in which
its last byte came, and each piece of its answer goes on in the turn in which that comes.
Every other call takes the usual path (`web/forwarding/forward.py`), before a byte of it was sent.

What is relayed, and how, is decided by the same functions on both paths.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.core.fields import RawHeaders, response_fields, response_head
from proxy.core.routing import Route
from proxy.core.shapes import HeadWriter
from proxy.ports.upstream import (
    PromptResponse,
    UpstreamClient,
    UpstreamRequest,
    UpstreamUnavailableError,
)
from proxy.web.forwarding.downstream import METHOD, Downstream
from proxy.web.forwarding.endings import cut, finish_on_close, hold_open
from proxy.web.forwarding.relay import Forwarded, OnDone, Outcome, answer_head, own_error
from proxy.web.pages import written


@dataclass(frozen=True, slots=True)
class ForwardPlan:
    """How all calls with one head, but for some values in it, are forwarded."""

    route: Route
    target: str
    """As callers send it."""

    template: bytes
    """The head that goes upstream, with a place for each of the values."""

    on_done: OnDone
    lines: bytes = b""
    """Added to the head of each answer."""


class Shortcut:
    """Forwards the calls that may take it. One instance serves all of them, concurrently."""

    def __init__(self, client: UpstreamClient) -> None:
        self._client = client
        self._heads = HeadWriter()

    def begin(
        self, plan: ForwardPlan, values: Sequence[bytes], body: bytes, downstream: Downstream
    ) -> "ShortCall | None":
        """Send the call, whose head has these values; return nothing if no connection is free."""
        call = ShortCall(plan, downstream, self._heads)
        response = self._client.begin(
            plan.route.upstream, lambda: call.outgoing(values, body), call.news
        )
        if response is None:
            return None
        call.response = response
        return call


class ShortCall:
    """One call on its way, and its answer on the way back."""

    __slots__ = (
        "_body_bytes",
        "_downstream",
        "_first_byte_s",
        "_heads",
        "_plan",
        "_started",
        "_status",
        "_until_close",
        "response",
    )

    def __init__(self, plan: ForwardPlan, downstream: Downstream, heads: HeadWriter) -> None:
        self._plan = plan
        self._downstream = downstream
        self._heads = heads
        self._started = time.perf_counter()
        self._first_byte_s: float | None = None
        self._status: int | None = None
        self._until_close = False
        self._body_bytes = 0
        self.response: PromptResponse | None = None

    def outgoing(self, values: Sequence[bytes], body: bytes) -> UpstreamRequest:
        """Return the call as the upstream shall see it."""
        route = self._plan.route
        self._body_bytes = len(body)
        return UpstreamRequest(
            upstream=route.upstream,
            method=METHOD,
            target=route.upstream_target,
            body=body,
            on_informational=self._relay_informational,
            head=self._plan.template % tuple(values),
            keep_chunks=True,
        )

    def news(self) -> None:
        """Relay what is here, if the caller takes it; both sides call when anything changes."""
        response, downstream = self.response, self._downstream
        transport = downstream.transport
        if response is None or transport is None or transport.is_closing():
            # The caller left; its connection tells that in a moment.
            return
        if response.headed and self._status is None:
            self._write_first(response, transport)
        elif not downstream.writing_paused and (data := response.take_ready()):
            # What comes while the caller takes no more stays where it is, and is bounded there.
            transport.write(data)
        if downstream.writing_paused:
            # Also at the end: or a caller who sends calls and reads no answer would fill
            # the memory.
            return
        if response.at_end:
            if self._until_close:
                finish_on_close(transport)
            self._end(Outcome.COMPLETED, keep_alive=not self._until_close)
        elif response.failure is None:
            # The caller may have taken more before the head is here.
            if response.headed:
                response.flow(self._write)
        elif response.headed:
            cut(transport, until_close=self._until_close)
            self._end(Outcome.BROKEN, keep_alive=False)
        else:
            self._refuse(response, transport)

    def caller_left(self) -> None:
        """Cut the call: nobody is there to be answered."""
        self._end(Outcome.CALLER_LEFT, keep_alive=False)

    def _write_first(self, response: PromptResponse, transport: asyncio.Transport) -> None:
        """Write the head together with what came with it, mostly all."""
        head, _, self._until_close = answer_head(self._heads, response, method=METHOD, modern=True)
        if self._until_close:
            hold_open(transport)
        if self._until_close or self._downstream.is_ending:
            head += b"Connection: close\r\n"
        self._first_byte_s = time.perf_counter() - self._started
        self._status = response.status
        transport.write(b"%b%b\r\n%b" % (head, self._plan.lines, response.take_ready()))

    def _write(self, data: bytes) -> bool:
        downstream = self._downstream
        transport = downstream.transport
        if transport is None or transport.is_closing():
            return False
        transport.write(data)
        return not downstream.writing_paused

    def _refuse(self, response: PromptResponse, transport: asyncio.Transport) -> None:
        error = response.failure
        assert isinstance(error, UpstreamUnavailableError)
        answer = own_error(self._plan.route.upstream, error)
        keep_alive = not self._downstream.is_ending
        transport.write(written(answer, method=METHOD, keep_alive=keep_alive, modern=True))
        self._status = answer.status
        self._end(Outcome.REFUSED, keep_alive=keep_alive)

    def _relay_informational(self, status: int, reason: str, headers: RawHeaders) -> None:
        """Pass it on, unless the caller takes no more: nothing bounds how many come."""
        downstream = self._downstream
        transport = downstream.transport
        if transport is None or transport.is_closing():
            return
        if not downstream.writing_paused:
            transport.write(response_head(status, reason, response_fields(headers)))

    def _end(self, outcome: Outcome, *, keep_alive: bool) -> None:
        response, self.response = self.response, None
        if response is None:
            return
        response.close()
        failure = response.failure
        route = self._plan.route
        self._plan.on_done(
            Forwarded(
                upstream=route.upstream.name,
                method=METHOD,
                outcome=outcome,
                status=self._status,
                bytes_up=self._body_bytes,
                bytes_down=response.body_bytes,
                first_byte_s=self._first_byte_s,
                duration_s=time.perf_counter() - self._started,
                error=failure if isinstance(failure, UpstreamUnavailableError) else None,
            )
        )
        self._downstream.call_ended(keep_alive=keep_alive)
