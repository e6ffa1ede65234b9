"""Which calls may take a shortcut: those whose head was seen and served before.

An SDK sends the same head with every call, letter by letter, but for the values of a few
fields. Where such a call goes, what it asks for, whose it is and that its caller's key may go
on follows from the rest, and is kept; what depends on the moment (rules, whose retries are
waited for, whose credentials nobody has proved) is asked for each call.

What is kept was read by aiohttp's parser and passed every check when it first came, and is
kept as that reading is written down. So a head of the same letters says the same; and the
values that differ are taken only where every reader reads them alike.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final, NamedTuple, Protocol

from aiohttp import web
from aiohttp.http import HttpVersion11

from policies.headers import Asked
from policies.policy import Policy
from proxy.core.fields import LENGTH_DIGITS_MAX, RawHeaders, request_fields, request_head
from proxy.core.routing import Route
from proxy.services.callers.accounts import Accounts
from proxy.services.deferral.repeats import Repeats
from proxy.web.entrance.calls import Calls
from proxy.web.entrance.heads import CallHead, FirstLook, Identify, may_repeat
from proxy.web.forwarding.downstream import METHOD, Downstream, ShortcutCall
from proxy.web.forwarding.shortcut import ForwardPlan

KNOWN_HEADS_MAX: Final = 256
"""Heads that are kept: of at most 8 KB each, some MB when callers have ever new ones."""

_HEAD_BYTES_MAX: Final = 8192

_LENGTH: Final = b"content-length"
_VARYING: Final = frozenset(
    {
        *(_LENGTH, b"idempotency-key", b"x-request-id", b"x-client-request-id"),
        *(b"traceparent", b"tracestate", b"baggage", b"sentry-trace", b"x-amzn-trace-id"),
    }
)
"""Fields that differ from call to call, and that have no say in how one is forwarded."""

_VALUES: Final = re.compile(
    rb"\r\n(%b): ([!-~](?:[ -~]*[!-~])?)(?=\r\n)" % b"|".join(sorted(_VARYING)), re.IGNORECASE
)
"""What splits a head into letters that stay, names, and values."""

_Skeleton = tuple[bytes, ...]


class KnownCall(NamedTuple):
    """A call whose head is known."""

    body_bytes: int
    begin: Callable[[bytes, Downstream], ShortcutCall | None]
    """Begins it with its body; returns nothing, and does nothing, if the usual path must."""


class BeginForward(Protocol):
    """Begins to forward a call."""

    def __call__(
        self, plan: ForwardPlan, values: Sequence[bytes], body: bytes, downstream: Downstream
    ) -> ShortcutCall | None:
        """Begin it; return nothing, and do nothing, if the usual path must."""
        ...


class BeginDeferral(Protocol):
    """Begins to defer a call."""

    def __call__(
        self, head: CallHead, target: str, body: bytes, downstream: Downstream
    ) -> ShortcutCall | None:
        """Begin it; return nothing, and do nothing, if the usual path must."""
        ...


@dataclass(slots=True)
class _ForwardedHead:
    """A head of forwarded calls, and how calls with it are forwarded under a policy."""

    asked: Asked
    headers: RawHeaders
    varying: tuple[int, ...]
    """Where the fields stand whose values vary."""

    length_at: int
    """Which of these is the length of the body."""

    identify: Identify
    policy: Policy
    plan: ForwardPlan


@dataclass(frozen=True, slots=True)
class _DeferredHead:
    """A head of calls that ask to be deferred."""

    head: CallHead
    target: str
    length_at: int

    @property
    def identify(self) -> Identify:
        return self.head.caller

    @property
    def asked(self) -> Asked:
        return self.head.asked


class _ReadHead(NamedTuple):
    """The head of a call that may take a shortcut, and where in it values vary."""

    skeleton: _Skeleton
    varying: tuple[int, ...]
    length_at: int


class KnownHeads:
    """The heads of calls that came lately."""

    def __init__(
        self,
        *,
        policy: Callable[[], Policy],
        repeats: Repeats,
        accounts: Accounts,
        calls: Calls,
        annotate: bool,
        forward: BeginForward,
        defer: BeginDeferral | None,
    ) -> None:
        """`policy` returns the one in force; `annotate` says on each answer what was decided.

        Without `defer` all calls that ask to be deferred take the usual path.
        """
        self._policy = policy
        self._repeats = repeats
        self._accounts = accounts
        self._calls = calls
        self._annotate = annotate
        self._forward = forward
        self._defer = defer
        self._known: dict[_Skeleton, _ForwardedHead | _DeferredHead] = {}

    def find(self, head: bytes) -> KnownCall | None:
        """Return the call that this head begins, if it is known and may take a shortcut now."""
        if len(head) > _HEAD_BYTES_MAX:
            return None
        parts = _VALUES.split(head)
        known = self._known.get(_skeleton(parts))
        if known is None or (self._repeats.expects_any and self._may_repeat(known)):
            return None
        values = parts[2::3]
        length = values[known.length_at]
        if not length.isdigit() or len(length) > LENGTH_DIGITS_MAX:
            return None
        if isinstance(known, _DeferredHead):
            return self._deferred(known, int(length))
        return self._forwarded(known, values, int(length))

    def _forwarded(
        self, known: _ForwardedHead, values: Sequence[bytes], body_bytes: int
    ) -> KnownCall | None:
        policy = self._policy()
        if self._accounts.wants_news_of(known.identify):
            # It must be noted that the upstream accepts the credential.
            return None
        if len(policy.rules) and self._is_ruled(known, values, policy):
            return None
        if policy is not known.policy:
            known.policy = policy
            was = known.plan
            known.plan = self._plan(was.route, was.target, was.template, policy)
        return KnownCall(body_bytes, partial(self._forward, known.plan, values))

    def _deferred(self, known: _DeferredHead, body_bytes: int) -> KnownCall | None:
        if self._defer is None or len(self._policy().rules):
            return None
        return KnownCall(body_bytes, partial(self._defer, known.head, known.target))

    def learn(self, request: web.BaseRequest, look: FirstLook) -> None:
        """Keep the head of a call that is forwarded because nothing applies to it."""
        route, asked = look.route, look.asked
        read = _read(request, asked)
        # A known head comes this way only because the shortcut could not take its call.
        if read is None or read.skeleton in self._known:
            return
        headers, policy = request.raw_headers, self._policy()
        template = _template(route, headers, read.varying)
        if template is None:
            return
        self._keep(
            read.skeleton,
            _ForwardedHead(
                asked=asked,
                headers=headers,
                varying=read.varying,
                length_at=read.length_at,
                identify=look.caller,
                policy=policy,
                plan=self._plan(route, request.raw_path, template, policy),
            ),
        )

    def learn_deferred(self, request: web.BaseRequest, head: CallHead) -> CallHead:
        """Keep the head of a call that asks to be deferred; return the one that is kept.

        What is decided about such calls is noted on the head that is returned.
        """
        read = _read(request, head.asked)
        if self._defer is None or read is None or not _is_same_each_time(head.asked):
            return head
        known = self._known.get(read.skeleton)
        if isinstance(known, _DeferredHead):
            return known.head
        self._keep(read.skeleton, _DeferredHead(head, request.raw_path, read.length_at))
        return head

    def _keep(self, skeleton: _Skeleton, known: _ForwardedHead | _DeferredHead) -> None:
        if len(self._known) >= KNOWN_HEADS_MAX:
            del self._known[next(iter(self._known))]
        self._known[skeleton] = known

    def _may_repeat(self, known: _ForwardedHead | _DeferredHead) -> bool:
        """Tell whether such a call may be a repeat: then its caller is offered a job."""
        return may_repeat(known.asked, known.identify, self._policy(), self._repeats)

    def _is_ruled(self, known: _ForwardedHead, values: Sequence[bytes], policy: Policy) -> bool:
        """Tell whether a rule may have something to say about the call."""
        headers, route = list(known.headers), known.plan.route
        for at, value in zip(known.varying, values, strict=True):
            headers[at] = (headers[at][0], value)
        return not policy.is_idle(
            known.asked,
            headers=tuple(headers),
            path=route.upstream_target.partition("?")[0],
            upstream=route.upstream.name,
        )

    def _plan(self, route: Route, target: str, template: bytes, policy: Policy) -> ForwardPlan:
        told = self._calls.of_shortcut(route, METHOD, target, generation=policy.generation)
        lines = told.annotation if self._annotate else b""
        return ForwardPlan(route, target, template, told.on_done, lines)


def _is_same_each_time(asked: Asked) -> bool:
    """Return whether calls that ask for this are told apart by their bodies alone."""
    return asked.run is None and asked.idempotency_key is None and not asked.idempotency_problem


def _read(request: web.BaseRequest, asked: Asked) -> _ReadHead | None:
    """Read a head; nothing for a call that may not take a shortcut."""
    if request.method != METHOD or request.version != HttpVersion11 or not request.keep_alive:
        return None
    if asked.retry_count or isinstance(asked.deadline, datetime):
        # Read differently at another time.
        return None
    headers = request.raw_headers
    fields = request_fields(headers, host=b"")
    if not fields.has_body or fields.chunked or fields.expect_continue or fields.upgrade:
        return None
    head = request_head(METHOD, request.raw_path, headers)
    parts = _VALUES.split(head)
    varying = tuple(at for at, field in enumerate(headers) if field[0].lower() in _VARYING)
    if len(head) > _HEAD_BYTES_MAX or len(parts[2::3]) != len(varying):
        return None
    length_at = [name.lower() for name in parts[1::3]].index(_LENGTH)
    return _ReadHead(_skeleton(parts), varying, length_at)


def _template(route: Route, headers: RawHeaders, varying: Sequence[int]) -> bytes | None:
    """Return the head that goes upstream, with a place for each value that varies.

    Nothing for a call that may not take the shortcut.
    """
    fields = request_fields(headers, host=route.upstream.host_header)
    # No head that was parsed has a NUL in it.
    marked = tuple(
        (name, b"\0" if name.lower() in _VARYING else value) for name, value in fields.kept
    )
    head = request_head(METHOD, route.upstream_target, marked)
    if head.count(b"\0") != len(varying):
        # `Connection` names one of them.
        return None
    return head.replace(b"%", b"%%").replace(b"\0", b"%b")


def _skeleton(parts: Sequence[bytes]) -> _Skeleton:
    """Return what equal heads have in common."""
    return (*parts[0::3], *parts[1::3])
