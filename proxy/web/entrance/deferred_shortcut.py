"""The shortcut of deferred calls: from bytes to a job and its answer, without a request.

What aiohttp makes for each call, and what reading its head takes, costs more than making
the job durable. A call whose head came before, with a body of a kind that was decided
about, needs none of that. Whatever is out of the ordinary takes the usual path
(`web/entrance/front.py`), with nothing done yet.
"""

import asyncio
from collections.abc import Callable

from policies.model import Defer
from policies.policy import Policy
from proxy.core.body import parse_body
from proxy.core.errors import CallerError, ProxyError
from proxy.ports.tasks import TaskOwner
from proxy.web.answering.held import Ending
from proxy.web.entrance.calls import Calls
from proxy.web.entrance.deferrer import Deferrer
from proxy.web.entrance.heads import CallHead
from proxy.web.entrance.incoming import Call
from proxy.web.entrance.refused import refusal
from proxy.web.forwarding.downstream import METHOD, Downstream
from proxy.web.pages import written


class DeferredShortcut:
    """Defers the calls that may take it. One instance serves all of them, concurrently."""

    def __init__(
        self,
        deferrer: Deferrer,
        *,
        policy: Callable[[], Policy],
        calls: Calls,
        tasks: TaskOwner,
        max_body_bytes: int,
    ) -> None:
        self._deferrer = deferrer
        self._policy = policy
        self._calls = calls
        self._tasks = tasks
        self._max_body_bytes = max_body_bytes

    def begin(
        self, head: CallHead, target: str, body: bytes, downstream: Downstream
    ) -> "ShortDeferral | None":
        """Begin to defer the call; return nothing, and do nothing, if the usual path must.

        `target` is as the caller sent it.
        """
        policy = self._policy()
        try:
            parsed = parse_body(body, max_bytes=self._max_body_bytes)
        except CallerError:
            return None
        decision = head.decision(policy, parsed)
        if not isinstance(decision, Defer) or not self._deferrer.answers_at_once(decision):
            return None
        record = self._calls.record(METHOD, target)
        record.route = head.route
        record.body_bytes = len(body)
        record.decide(decision, generation=policy.generation)
        call = Call(record=record, head=head, body=body, parsed=parsed)
        deferral = ShortDeferral(call, downstream)
        deferral.task = self._tasks.create_task(
            deferral.run(self._deferrer, decision, self._calls), name="call"
        )
        return deferral


class ShortDeferral:
    """One call on its way to be a job, and its answer."""

    __slots__ = ("_call", "_downstream", "task")

    def __init__(self, call: Call, downstream: Downstream) -> None:
        self._call = call
        self._downstream: Downstream | None = downstream
        self.task: asyncio.Task[None] | None = None

    def news(self) -> None:
        """Nothing: who waits for the caller to take more is woken by its connection."""

    def caller_left(self) -> None:
        """Stop; the job goes on if it was made."""
        self._end(keep_alive=False)
        assert self.task is not None
        self.task.cancel()

    async def run(self, deferrer: Deferrer, decision: Defer, calls: Calls) -> None:
        """Make the job and answer the call."""
        try:
            try:
                await deferrer.answer_at_once(self._call, decision, self)
            except ProxyError as error:
                calls.refused(self._call.record, error)
                page = refusal(self._call.head.dialect.family, error)
                keep_alive = self._downstream is not None and not self._downstream.is_ending
                await self.send(written(page, method=METHOD, keep_alive=keep_alive, modern=True))
        except Exception as exc:  # noqa: BLE001 - told as aiohttp tells of a bug in a handler
            downstream, self._downstream = self._downstream, None
            if downstream is not None:
                downstream.call_failed(exc)
        self._end(keep_alive=True)

    async def send(self, data: bytes) -> Ending:
        """Write the answer; tell what became of it."""
        delivered = self._downstream is not None and await self._downstream.flush(data)
        return Ending.DELIVERED if delivered else Ending.BROKEN

    def abort(self) -> None:
        """Break the connection so that what was sent cannot be taken for a whole answer."""
        if self._downstream is not None and self._downstream.transport is not None:
            self._downstream.transport.abort()

    def _end(self, *, keep_alive: bool) -> None:
        downstream, self._downstream = self._downstream, None
        if downstream is not None:
            downstream.call_ended(keep_alive=keep_alive)
