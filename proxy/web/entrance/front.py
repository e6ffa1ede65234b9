"""Every request comes in here: ours, to be forwarded, or to be deferred.

The order is fixed. First our own paths, which are never forwarded. Then where the
call belongs. Then what its headers ask for; a call that asks for nothing, with no
rule to ask and no job that it could repeat, is forwarded from here without its
body being read or the store being asked. Its token is hashed only while the repeat of
some caller is awaited, or the credential of some caller is unproved, to tell whether
this is that caller.
"""

from collections.abc import Callable, Mapping

from aiohttp import web

from policies.headers import Asked
from policies.model import UNDECIDED, Decision, Defer, Forward, Reject, deciding_rule
from policies.policy import Policy
from proxy.core.dialects import DIALECTS, Family
from proxy.core.errors import CallerError, ProxyError
from proxy.core.job import Job
from proxy.core.routing import Refusal, Route, resolve
from proxy.core.upstream import Upstream
from proxy.services.callers.accounts import Accounts
from proxy.services.callers.clients import Exchange
from proxy.services.deferral.repeats import Repeats
from proxy.web.answering.final import response_of
from proxy.web.entrance.calls import CallRecord, Calls
from proxy.web.entrance.deferrer import Deferrer
from proxy.web.entrance.heads import HeadReader, may_repeat, read_head
from proxy.web.entrance.incoming import Incoming
from proxy.web.entrance.known_heads import KnownHeads
from proxy.web.entrance.refused import refusal
from proxy.web.forwarding.forward import Forwarder
from proxy.web.jobs_api.jobs import JobsApi, caller_family, is_job_path


class Front:
    """The one handler of the data port. `policy` returns the one in force."""

    def __init__(  # noqa: PLR0913 - collaborators, each by its name
        self,
        *,
        upstreams: Mapping[str, Upstream],
        heads: HeadReader,
        policy: Callable[[], Policy],
        forwarder: Forwarder,
        deferrer: Deferrer,
        repeats: Repeats,
        accounts: Accounts,
        jobs_api: JobsApi,
        calls: Calls,
        max_body_bytes: int,
        known_heads: KnownHeads | None = None,
    ) -> None:
        """`known_heads` learns which calls may take the shortcut."""
        self._upstreams = upstreams
        self._heads = heads
        self._policy = policy
        self._forwarder = forwarder
        self._deferrer = deferrer
        self._repeats = repeats
        self._accounts = accounts
        self._jobs_api = jobs_api
        self._calls = calls
        self._max_body_bytes = max_body_bytes
        self._known_heads = known_heads

    def drain(self) -> None:
        """Accept no more jobs. Calls are forwarded as long as they come."""
        self._deferrer.drain()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve one request; the handler of `aiohttp.web.Server`."""
        target = request.raw_path
        if is_job_path(target):
            return await self._jobs_api.handle(request)
        record = self._calls.begin(request.method, target)
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
        look, policy = self._heads.look(request, route), self._policy()
        asked, is_post = look.asked, request.method == "POST"
        repeats = is_post and may_repeat(asked, look.caller, policy, self._repeats)
        samples = self._calls.samples()
        busy = repeats or samples
        if not busy and is_post:
            # Then `_forward` notes whether the upstream accepts the credential.
            busy = self._accounts.wants_news_of(look.caller)
        if not busy and _is_idle(policy, asked, request, route):
            record.decide(UNDECIDED, generation=policy.generation)
            if look.exchange is None and self._known_heads is not None:
                self._known_heads.learn(request, look)
            return await self._relay(request, route, look.exchange)
        head = read_head(request, look)
        if asked.defers and self._known_heads is not None:
            head = self._known_heads.learn_deferred(request, head)
        call = Incoming(
            request=request,
            record=record,
            head=head,
            now=look.now,
            max_body_bytes=self._max_body_bytes,
        )
        return await self._consider(call, policy, repeats=repeats, samples=samples)

    async def _consider(
        self, call: Incoming, policy: Policy, *, repeats: bool, samples: bool
    ) -> web.StreamResponse:
        facts = call.facts()
        # A claim is offered whatever would be decided now: a retry must not be
        # decided otherwise than the call that it repeats.
        claims = repeats and facts.obstacle is None
        if claims or policy.wants_body(call.asked, facts) or (samples and facts.obstacle is None):
            facts = await call.with_body(facts)
        if samples:
            call.record.seen = call.seen(facts)
        decision = policy.decide(call.asked, facts)
        if call.parsed is not None and facts.obstacle is None and not len(policy.rules):
            call.head.keep_decision(policy, call.parsed, decision)
        if claims and call.parsed is not None and not _refuses_its_caller(decision):
            job = await self._claim(call, decision)
            if job is not None:
                call.record.repeat(job, generation=policy.generation)
                return await self._deferrer.answer_repeat(call, job, decision)
        self._calls.decided(call.record, decision, generation=policy.generation)
        if isinstance(decision, Reject):
            raise _refused(decision)
        if isinstance(decision, Defer):
            return await self._deferrer.defer(call, decision, forward=self._forward)
        return await self._forward(call)

    async def _claim(self, call: Incoming, decision: Decision) -> Job | None:
        """Take the job of the call that this one repeats, if there is one."""
        return await self._repeats.claim(
            call.caller().owner,
            call.fingerprint(),
            retry_count=call.asked.retry_count,
            run=call.asked.run,
            is_forwarded=isinstance(decision, Forward),
        )

    async def _forward(self, call: Incoming) -> web.StreamResponse:
        head = call.head
        response = await self._relay(call.request, head.route, head.exchange, call.body)
        # Only what costs something proves a credential: some providers show
        # their models to everybody.
        served = 200 <= response.status < 300 and head.endpoint is not None
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

    def _refuse(self, record: CallRecord, family: Family, error: ProxyError) -> web.Response:
        self._calls.refused(record, error)
        return response_of(refusal(family, error))


def _is_idle(policy: Policy, asked: Asked, request: web.BaseRequest, route: Route) -> bool:
    return policy.is_idle(
        asked,
        headers=request.raw_headers,
        path=route.upstream_target.partition("?")[0],
        upstream=route.upstream.name,
    )


def _refused(decision: Reject) -> CallerError:
    if deciding_rule(decision.decided_by) is not None:
        code = "refused_by_policy"
    else:
        code = "not_deferrable" if decision.header is None else "bad_header"
    return CallerError(
        decision.message, code=code, http_status=decision.status, param=decision.header
    )


def _refuses_its_caller(decision: Decision) -> bool:
    """Return whether the call's own headers are at fault: then it repeats no accepted call."""
    return isinstance(decision, Reject) and deciding_rule(decision.decided_by) is None
