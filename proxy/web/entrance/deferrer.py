"""Make a job of a call, and answer it as its caller asked; or forward it after all."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from aiohttp import web

from policies.fields import Run, Tag
from policies.headers import Asked
from policies.model import BY_PREFER, Answer, Decision, Defer
from policies.model import Lane as PreferredLane
from proxy.core.dialects import whole_target
from proxy.core.errors import AcceptUnclearError, ProxyError, StoppingError, StoreError
from proxy.core.ids import JobId
from proxy.core.job import AnswerMode, Job
from proxy.core.lanes import Lane
from proxy.services.deferral.accept import Accepted, Acceptor
from proxy.services.deferral.paces import Paces
from proxy.services.deferral.repeats import LeftJob, Repeats
from proxy.services.deferral.terms import DeferredCall, Terms
from proxy.web.answering.answers import AnsweredCall, Answers, OnEnd, Outlet
from proxy.web.answering.held import Ending
from proxy.web.answering.holding import TooManyHeldError
from proxy.web.entrance.calls import Calls
from proxy.web.entrance.heads import Agreed
from proxy.web.entrance.incoming import Call, Incoming

_MODES: Final = {answer: AnswerMode(answer.value) for answer in Answer}


class Deferrer:
    """Defers calls that a decision says to defer. One instance serves all of them."""

    def __init__(
        self,
        *,
        acceptor: Acceptor,
        answers: Answers,
        paces: Paces,
        repeats: Repeats,
        calls: Calls,
        withdraw: Callable[[JobId], None],
        forwards_without_store: bool,
    ) -> None:
        """`withdraw` is told of jobs that may exist although their calls are forwarded.

        With `forwards_without_store` calls that cannot be deferred because the store
        is away are made at once, at their full price, instead of refused.
        """
        self._acceptor = acceptor
        self._answers = answers
        self._paces = paces
        self._repeats = repeats
        self._calls = calls
        self._withdraw = withdraw
        self._forwards_without_store = forwards_without_store
        self._draining = False

    def drain(self) -> None:
        """Accept no more jobs."""
        self._draining = True

    async def defer(
        self,
        call: Incoming,
        decision: Defer,
        *,
        forward: Callable[[Incoming], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """Make a job of a call whose body is read, and answer it.

        What nobody asked to defer, and cannot be deferred, is handed to `forward`.
        """
        with self._paces.hold(_held_run(call, decision)) as held:
            try:
                terms = _terms(call, decision, alone=held.alone)
                job, held.is_new, facts = await self._accept(call, terms)
                if held.alone and held.is_new:
                    self._calls.alone()
            except ProxyError as error:
                if call.asked.defers and not self._may_forward(call.asked, error):
                    self._note_unclear(call, error)
                    raise
                # Its caller did not ask to be deferred, so the call must not fail for it. If the
                # store did not answer, the job may exist all the same: it is taken back.
                if isinstance(error, AcceptUnclearError):
                    self._withdraw(JobId(error.job_id))
                self._calls.not_deferred(call.record, decision, error)
                return await forward(call)
            mode = _MODES[decision.answer]
            how = "created" if held.is_new else "known"
            return await self._answers.answer(
                call.request,
                job,
                _answered(call, mode, decision),
                facts,
                on_end=self._teller(call, job, mode, how, held.end),
            )

    @staticmethod
    def answers_at_once(decision: Defer) -> bool:
        """Return whether a call is told of its job as soon as that is made."""
        return decision.answer is not Answer.WAIT and decision.hold is None

    async def answer_at_once(self, call: Call, decision: Defer, outlet: Outlet) -> None:
        """Make a job of a call that waits for nothing, and answer it.

        Raises:
            ProxyError: if it cannot be deferred; it is not answered then.
        """
        assert self.answers_at_once(decision)
        agreed = call.head.agreed
        if agreed is None or agreed.decision is not decision:
            mode = _MODES[decision.answer]
            terms = _terms(call, decision, alone=False)
            agreed = Agreed(decision, terms, _answered(call, mode, decision))
            call.head.agreed = agreed
        try:
            job, is_new, facts = await self._accept(call, agreed.terms)
        except AcceptUnclearError as error:
            self._note_unclear(call, error)
            raise
        how = "created" if is_new else "known"
        await self._answers.answer_at_once(
            outlet,
            job,
            agreed.answered,
            facts,
            on_end=self._teller(call, job, agreed.answered.mode, how),
        )

    async def answer_repeat(
        self, call: Incoming, job: Job, decision: Decision
    ) -> web.StreamResponse:
        """Answer a call that repeats the one of `job`."""
        is_alike = job.fingerprint == call.fingerprint()
        mode = _own_mode(call.asked, decision, is_alike=is_alike) or job.answer
        return await self._answers.answer(
            call.request,
            job,
            _answered(call, mode, decision),
            on_end=self._teller(call, job, mode, "claimed"),
        )

    def _may_forward(self, asked: Asked, error: ProxyError) -> bool:
        """Return whether a call that its caller wanted deferred may be made at once instead."""
        return (
            self._forwards_without_store
            and isinstance(error, StoreError)
            # A caller that asks for a job ID by name could not use a plain answer.
            and asked.tag in {None, Tag.TRUE, Tag.WAIT}
        )

    async def _accept(self, call: Call, terms: Terms) -> Accepted:
        assert call.parsed is not None
        assert call.head.place is not None
        if self._draining:
            raise StoppingError("this instance is stopping; send the call again")
        if terms.answer is AnswerMode.WAIT and not self._answers.has_room():
            raise TooManyHeldError
        admitted = self._acceptor.admit(
            call.parsed, call.head.place, upstream=call.head.route.upstream.name
        )
        fingerprint, unnamed = call.fingerprint(), call.unnamed()
        deferred = DeferredCall(terms, admitted, fingerprint, unnamed, call.retagged)
        return await self._acceptor.accept(deferred, partial(self._cut, call, terms))

    def _cut(self, call: Call, terms: Terms, job: Job) -> None:
        """Tell of a caller who left while its job was being made."""
        self._calls.deferred(call.record, job, mode=terms.answer, how="unclear", status=None)
        self._leave_to_repeat(call, job.id)

    def _note_unclear(self, call: Call, error: ProxyError) -> None:
        if isinstance(error, AcceptUnclearError):
            self._leave_to_repeat(call, JobId(error.job_id))

    def _leave_to_repeat(self, call: Call, job_id: JobId) -> None:
        """Let a repeat of the call find its job, if it was made: nobody was told of it."""
        owner = call.head.caller().owner
        fingerprint = call.fingerprint()
        left = LeftJob(job_id, fingerprint)
        self._repeats.note_broken(owner, fingerprint, left, call.asked.run)
        self._answers.unheard(job_id, retry_count=call.asked.retry_count)

    def _teller(
        self,
        call: Call,
        job: Job,
        mode: AnswerMode,
        how: str,
        on_end: Callable[[], None] = lambda: None,
    ) -> OnEnd:
        """Return what to call once it is known what became of the answer."""

        def tell(ending: Ending, status: int | None) -> None:
            on_end()
            if ending is not Ending.DELIVERED:
                left = LeftJob(job.id, job.fingerprint)
                self._repeats.note_broken(job.owner, call.fingerprint(), left, call.asked.run)
            told = None if ending is Ending.BROKEN else status
            self._calls.deferred(call.record, job, mode=mode, how=how, status=told)

        return tell


def _terms(call: Call, decision: Defer, *, alone: bool) -> Terms:
    asked, head = call.asked, call.head
    assert head.place is not None
    return Terms(
        caller=head.caller(),
        dialect=head.dialect,
        endpoint=head.place.endpoint,
        target=whole_target(head.dialect, head.target),
        headers=head.kept,
        answer=_MODES[decision.answer],
        decided_by=decision.decided_by,
        deadline=decision.deadline,
        lane=Lane.INTERACTIVE if decision.lane is PreferredLane.INTERACTIVE else None,
        alone=alone,
        tags=dict(decision.tags),
        webhook=asked.webhook,
        run=asked.run,
        idempotency_key=asked.idempotency_key,
        retry_count=asked.retry_count,
    )


def _answered(call: Call, mode: AnswerMode, decision: Decision) -> AnsweredCall:
    asked = call.asked
    assert call.head.place is not None
    assert call.parsed is not None
    hold = decision.hold if isinstance(decision, Defer) else None
    return AnsweredCall(
        mode=mode,
        dialect=call.head.dialect,
        endpoint=call.head.place.endpoint,
        streaming=call.head.place.streaming or call.parsed.streaming,
        include_usage=call.parsed.include_usage,
        retry_count=asked.retry_count,
        read_timeout_s=asked.read_timeout.total_seconds() if asked.read_timeout else None,
        typed_sdk=asked.typed_sdk,
        parsed_at_once=asked.parsed_at_once,
        raw_sdk=asked.raw_sdk,
        takes_no_job=call.head.takes_no_job(),
        prefer_wait_s=hold.total_seconds() if hold is not None else None,
        preference_applied=decision.decided_by == BY_PREFER and isinstance(decision, Defer),
    )


def _held_run(call: Incoming, decision: Defer) -> tuple[str, Run] | None:
    """Return the run whose pace the call shows: only who is held waits before the next one."""
    if call.asked.run is None or decision.answer.value != AnswerMode.WAIT:
        return None
    return call.caller().owner, call.asked.run


def _own_mode(asked: Asked, decision: Decision, *, is_alike: bool) -> AnswerMode | None:
    """Return the mode that a repeat asks for itself, if it does.

    A job whose call was not alike, but for its name, does not tell how this one is answered.
    """
    if isinstance(decision, Defer) and (asked.defers or not is_alike):
        return _MODES[decision.answer]
    return None
