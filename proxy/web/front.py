"""Every request comes in here: ours, to be forwarded, or to be deferred.

The order is fixed. First our own paths, which are never forwarded. Then where the
call belongs. Then what its headers ask for; a call that asks for nothing, with no
rule to ask and no job that it could repeat, is forwarded from here without its
body being read, a token being hashed or the store being asked.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from aiohttp import web

from policies.fields import Run, Tag
from policies.headers import Asked, HeaderError, read_headers, with_usual
from policies.model import UNDECIDED, Answer, CallFacts, Decision, Defer, Identity, Once, Reject
from policies.model import Lane as PreferredLane
from policies.policy import Policy
from proxy.core.dialects import DIALECTS, Family, error_answer, whole_target
from proxy.core.errors import (
    AcceptUnclearError,
    CallerError,
    OverloadedError,
    ProxyError,
    StoreError,
)
from proxy.core.fields import RawHeaders
from proxy.core.ids import JobId
from proxy.core.job import AnswerMode, Job
from proxy.core.lanes import Lane
from proxy.core.routing import Refusal, Route, resolve
from proxy.core.upstream import Upstream
from proxy.ports.clock import Clock
from proxy.services.accept import Acceptor, DeferredCall
from proxy.services.accounts import Accounts
from proxy.services.admission import ParsedBody, estimate_tokens, parse_body
from proxy.services.clients import Clients, Exchange
from proxy.services.facts import Seen
from proxy.services.obstacles import Head, obstacle
from proxy.services.owners import Caller, Owners
from proxy.services.paces import Paces
from proxy.services.repeats import Repeats
from proxy.web.answers import AnsweredCall, Answers
from proxy.web.bodies import read_body
from proxy.web.calls import CallRecord, Calls
from proxy.web.forward import Forwarder
from proxy.web.heads import CallHead, Heads, read_head
from proxy.web.held import Ending
from proxy.web.jobs import JobsApi, caller_family, is_job_path

_BY_PREFER: Final = "header:prefer"
_BY_RULE: Final = "rule:"

_MODES: Final = {answer: AnswerMode(answer.value) for answer in Answer}

_STORE_PAUSE_S: Final = 5
_DRAIN_PAUSE_S: Final = 1
"""Another instance, or the next process, takes the call at once."""


class DrainingError(ProxyError):
    """This instance stops and makes no promise that it could not keep itself."""

    code = "draining"
    http_status = 503
    retryable = True


@dataclass(slots=True)
class _Call:
    """One call on its way through this file."""

    request: web.BaseRequest
    record: CallRecord
    head: CallHead
    asked: Asked
    caller: Callable[[], Caller]
    now: datetime
    body: bytes | None = None
    parsed: ParsedBody | None = None

    def fingerprint(self) -> str:
        assert self.body is not None
        return self.head.fingerprint(self.body)


class Front:
    """The one handler of the data port. `policy` returns the one in force."""

    def __init__(  # noqa: PLR0913 - collaborators, each by its name
        self,
        *,
        upstreams: Mapping[str, Upstream],
        policy: Callable[[], Policy],
        forwarder: Forwarder,
        acceptor: Acceptor,
        answers: Answers,
        repeats: Repeats,
        paces: Paces,
        owners: Owners,
        clients: Clients,
        accounts: Accounts,
        jobs_api: JobsApi,
        calls: Calls,
        clock: Clock,
        max_body_bytes: int,
        withdraw: Callable[[JobId], None],
        usual: RawHeaders = (),
        forwards_without_store: bool = False,
    ) -> None:
        """`withdraw` is told of jobs that may exist although their calls are forwarded.

        `usual` are headers of ours that hold for calls which do not carry them.

        With `forwards_without_store` calls that cannot be deferred because the store
        is away are made at once, at their full price, instead of refused.
        """
        self._forwards_without_store = forwards_without_store
        self._upstreams = upstreams
        self._policy = policy
        self._forwarder = forwarder
        self._acceptor = acceptor
        self._answers = answers
        self._repeats = repeats
        self._paces = paces
        self._owners = owners
        self._clients = clients
        self._accounts = accounts
        self._jobs_api = jobs_api
        self._calls = calls
        self._clock = clock
        self._max_body_bytes = max_body_bytes
        self._usual = usual
        self._withdraw = withdraw
        self._heads = Heads()
        self._draining = False

    def drain(self) -> None:
        """Accept no more jobs. Calls are forwarded as long as they come."""
        self._draining = True

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve one request; the handler of `aiohttp.web.Server`."""
        target = request.raw_path
        if is_job_path(target):
            return await self._jobs_api.handle(request)
        record = self._calls.begin(request.method, target)
        head = self._heads.find(request)
        if head is not None:
            record.route = head.route
            try:
                return await self._consider_head(request, head, record)
            except ProxyError as error:
                return self._refuse(record, head.dialect.family, error)
        route = resolve(target, request.raw_headers, self._upstreams)
        if isinstance(route, Refusal):
            dialect = DIALECTS.get(route.dialect or "")
            family = caller_family(target, request.raw_headers, self._upstreams)
            return self._refuse(record, dialect.family if dialect else family, route.error())
        record.route = route
        try:
            return await self._serve(request, route, record)
        except ProxyError as error:
            return self._refuse(record, DIALECTS[route.upstream.dialect].family, error)

    async def _serve(
        self, request: web.BaseRequest, route: Route, record: CallRecord
    ) -> web.StreamResponse:
        exchange = self._clients.admit(request.method, request.raw_headers, route)
        now = self._clock.now()
        try:
            asked = read_headers(with_usual(request.raw_headers, self._usual), now=now)
        except HeaderError as exc:
            raise CallerError(str(exc), param=exc.header, code="bad_header") from exc
        policy = self._policy()
        may_repeat = self._may_repeat(request, asked)
        samples = self._calls.samples()
        busy = may_repeat or samples or self._accounts.wants_news
        if not busy and _is_idle(policy, asked, request, route):
            record.decide(UNDECIDED, generation=policy.generation)
            return await self._relay(request, route, exchange)
        head = read_head(request, route, asked, self._owners, exchange)
        if asked.defers:
            self._heads.keep(request, head)
        call = _Call(request, record, head, asked, head.caller, now)
        return await self._consider(call, policy, may_repeat=may_repeat, samples=samples)

    async def _consider_head(
        self, request: web.BaseRequest, head: CallHead, record: CallRecord
    ) -> web.StreamResponse:
        """Serve a call whose head came before, and asked to defer it."""
        call = _Call(request, record, head, head.asked, head.caller, self._clock.now())
        may_repeat, samples = self._may_repeat(request, head.asked), self._calls.samples()
        policy = self._policy()
        length = request.content_length
        fits = length is not None and length <= self._max_body_bytes
        if fits and not (may_repeat or samples or len(policy.rules)):
            await self._read_body(call)
            decision = head.decision(policy, call.parsed) if call.parsed is not None else None
            if isinstance(decision, Defer):
                record.decide(decision, generation=policy.generation)
                return await self._defer(call, decision)
        return await self._consider(call, policy, may_repeat=may_repeat, samples=samples)

    def _may_repeat(self, request: web.BaseRequest, asked: Asked) -> bool:
        if request.method != "POST" or asked.tag is Tag.FALSE:
            return False
        return asked.retry_count >= 1 or self._repeats.expects_any

    async def _consider(
        self, call: _Call, policy: Policy, *, may_repeat: bool, samples: bool
    ) -> web.StreamResponse:
        facts = self._facts(call)
        # A claim is offered whatever would be decided now: a retry must not be
        # decided otherwise than the call that it repeats.
        claims = (
            may_repeat
            and facts.obstacle is None
            and self._repeats.expects(call.caller().owner, retry_count=call.asked.retry_count)
        )
        if claims or policy.wants_body(call.asked, facts) or (samples and facts.obstacle is None):
            facts = await self._with_body(call, facts)
        if samples:
            call.record.seen = _seen(call, facts)
        decision = policy.decide(call.asked, facts)
        if call.parsed is not None and facts.obstacle is None and not len(policy.rules):
            call.head.keep_decision(policy, call.parsed, decision)
        if claims and call.parsed is not None and not _refuses_its_caller(decision):
            job = await self._repeats.claim(
                call.caller().owner,
                call.fingerprint(),
                retry_count=call.asked.retry_count,
                is_deferred=isinstance(decision, Defer),
            )
            if job is not None:
                call.record.repeat(job, generation=policy.generation)
                mode = _own_mode(call.asked, decision) or job.answer
                return await self._answer(call, job, mode, decision, how="claimed")
        self._calls.decided(call.record, decision, generation=policy.generation)
        if isinstance(decision, Reject):
            by_rule = decision.decided_by.startswith(_BY_RULE)
            code = "refused_by_policy" if by_rule else "not_deferrable"
            raise CallerError(decision.message, code=code, http_status=decision.status)
        if isinstance(decision, Defer):
            return await self._defer(call, decision)
        return await self._forward(call)

    def _facts(self, call: _Call) -> CallFacts:
        request = call.request
        return CallFacts(
            method=request.method,
            upstream=call.head.route.upstream.name,
            path=call.head.path,
            headers=request.raw_headers,
            now=call.now,
            obstacle=self._obstacle(call),
            tags=call.asked.tags,
            body_bytes=request.content_length,
            identity=lambda: _identity(call.caller()),
        )

    def _obstacle(self, call: _Call) -> str | None:
        request = call.request
        head = Head(
            method=request.method,
            endpoint=call.head.endpoint,
            content_type=request.content_type,
            content_encoding=request.headers.get("Content-Encoding", "identity"),
            length=request.content_length,
            tagged=call.asked.defers,
        )
        return obstacle(head, max_body_bytes=self._max_body_bytes)

    async def _with_body(self, call: _Call, facts: CallFacts) -> CallFacts:
        """Read and parse the body; return the facts with what it says."""
        problem = await self._read_body(call)
        body, parsed = call.body, call.parsed
        assert body is not None
        if parsed is None:
            return replace(facts, obstacle=problem, body_bytes=len(body))
        return replace(
            facts,
            body_bytes=len(body),
            body=lambda: parsed.fields,
            tokens=Once(lambda: estimate_tokens(body)),
            digest=Once(lambda: hashlib.sha256(f"{call.head.target}\n".encode() + body).digest()),
        )

    async def _read_body(self, call: _Call) -> str | None:
        """Read the body, once, and parse it; return why it cannot be, if it cannot."""
        if call.body is None:
            call.body = await read_body(call.request, max_bytes=self._max_body_bytes)
            call.record.body_bytes = len(call.body)
        try:
            call.parsed = call.parsed or parse_body(call.body, max_bytes=self._max_body_bytes)
        except CallerError as error:
            return error.message
        return None

    async def _forward(self, call: _Call) -> web.StreamResponse:
        head = call.head
        response = await self._relay(call.request, head.route, head.exchange, call.body)
        # Only what costs something proves a credential: some providers show
        # their models to everybody.
        served = 200 <= response.status < 300 and call.head.endpoint is not None
        if served and call.request.method == "POST" and self._accounts.wants_news:
            self._accounts.note_accepted(call.caller().credential.id)
        return response

    async def _relay(
        self,
        request: web.BaseRequest,
        route: Route,
        exchange: Exchange | None,
        body: bytes | None = None,
    ) -> web.StreamResponse:
        if exchange is None:
            return await self._forwarder.forward(request, route, body=body)
        return await self._forwarder.forward(
            request, exchange.route, body=body, without=exchange.without, more=exchange.more
        )

    async def _defer(self, call: _Call, decision: Defer) -> web.StreamResponse:
        with self._paces.hold(_held_run(call, decision)) as held:
            try:
                job, held.is_new = await self._accept(call, decision, alone=held.alone)
                if held.alone and held.is_new:
                    self._calls.alone()
            except ProxyError as error:
                if call.asked.defers and not self._may_forward(call.asked, error):
                    raise
                # Nobody asked for it, so it must not fail for it. If it was the store
                # that did not answer, the job may exist all the same: it is taken back.
                if isinstance(error, AcceptUnclearError):
                    self._withdraw(JobId(error.job_id))
                self._calls.not_deferred(call.record, decision, error)
                return await self._forward(call)
            mode = _MODES[decision.answer]
            how = "created" if held.is_new else "known"
            return await self._answer(call, job, mode, decision, how=how, on_end=held.end)

    def _may_forward(self, asked: Asked, error: ProxyError) -> bool:
        """Return whether a call that its caller wanted deferred may be made at once instead."""
        return (
            self._forwards_without_store
            and isinstance(error, StoreError)
            # Who asks for a job ID by name could not use a plain answer.
            and asked.tag in {None, Tag.TRUE, Tag.WAIT}
        )

    async def _accept(self, call: _Call, decision: Defer, *, alone: bool) -> tuple[Job, bool]:
        assert call.parsed is not None
        assert call.head.place is not None
        if self._draining:
            raise DrainingError("this instance is stopping; send the call again")
        if decision.answer.value == AnswerMode.WAIT and not self._answers.has_room():
            raise OverloadedError("too many held connections", code="too_many_held")
        asked = call.asked
        admitted = self._acceptor.admit(
            call.parsed, call.head.place, upstream=call.head.route.upstream.name
        )
        acceptance = await self._acceptor.accept(
            DeferredCall(
                caller=call.caller(),
                dialect=call.head.dialect,
                endpoint=call.head.place.endpoint,
                target=whole_target(call.head.dialect, call.head.target),
                headers=call.head.kept,
                admitted=admitted,
                fingerprint=call.fingerprint(),
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
        )
        return acceptance.job, acceptance.created

    async def _answer(
        self,
        call: _Call,
        job: Job,
        mode: AnswerMode,
        decision: Decision,
        *,
        how: str,
        on_end: Callable[[], None] = lambda: None,
    ) -> web.StreamResponse:
        asked = call.asked
        assert call.head.place is not None
        assert call.parsed is not None
        hold = decision.hold if isinstance(decision, Defer) else None
        answered = AnsweredCall(
            mode=mode,
            dialect=call.head.dialect,
            endpoint=call.head.place.endpoint,
            streaming=call.head.place.streaming or call.parsed.streaming,
            include_usage=call.parsed.include_usage,
            retry_count=asked.retry_count,
            read_timeout_s=asked.read_timeout.total_seconds() if asked.read_timeout else None,
            typed_sdk=asked.typed_sdk,
            prefer_wait_s=hold.total_seconds() if hold is not None else None,
            preference_applied=decision.decided_by == _BY_PREFER and isinstance(decision, Defer),
        )

        def tell(ending: Ending, status: int | None) -> None:
            on_end()
            if ending is not Ending.DELIVERED:
                self._repeats.note_broken(job.owner)
            told = None if ending is Ending.BROKEN else status
            self._calls.deferred(call.record, job, mode=mode, how=how, status=told)

        return await self._answers.answer(call.request, job, answered, on_end=tell)

    def _refuse(self, record: CallRecord, family: Family, error: ProxyError) -> web.Response:
        self._calls.refused(record, error)
        answer = error_answer(family, error)
        headers = list(answer.headers)
        if isinstance(error, StoreError):
            headers.append(("Retry-After", str(_STORE_PAUSE_S)))
        elif isinstance(error, DrainingError):
            headers.append(("Retry-After", str(_DRAIN_PAUSE_S)))
        return web.Response(status=answer.status, headers=headers, body=answer.body)


def _identity(caller: Caller) -> Identity:
    # The plain hash is what `offramp credential hash` prints, and rules name.
    hashes = {name for name in caller.names if name.startswith("sha256:")}
    return Identity(owner=caller.names, credential=frozenset({caller.credential.id, *hashes}))


def _is_idle(policy: Policy, asked: Asked, request: web.BaseRequest, route: Route) -> bool:
    return policy.is_idle(
        asked,
        headers=request.raw_headers,
        path=route.upstream_target.partition("?")[0],
        upstream=route.upstream.name,
    )


def _refuses_its_caller(decision: Decision) -> bool:
    """Return whether the call's own headers are at fault: then it repeats none that was taken."""
    return isinstance(decision, Reject) and not decision.decided_by.startswith(_BY_RULE)


def _seen(call: _Call, facts: CallFacts) -> Seen:
    caller = call.caller()
    return Seen(facts=facts, owner=caller.owner, credential=caller.credential.id, body=call.body)


def _held_run(call: _Call, decision: Defer) -> tuple[str, Run] | None:
    """Return the run whose pace the call shows: only who is held waits before the next one."""
    if call.asked.run is None or decision.answer.value != AnswerMode.WAIT:
        return None
    return call.caller().owner, call.asked.run


def _own_mode(asked: Asked, decision: Decision) -> AnswerMode | None:
    """Return the mode that a repeat asks for itself, if it does."""
    if asked.defers and isinstance(decision, Defer):
        return _MODES[decision.answer]
    return None
