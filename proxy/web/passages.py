"""Which calls may take the shortcut: those whose head came before and was forwarded then.

An SDK sends the same head with every call, letter by letter, but for the values of a few
fields. Where such a call goes, what it asks for and that its caller's key may go on follows
from the rest, and is kept; what depends on the moment (rules, retries that are waited for,
credentials that nobody has proved) is asked for each call.

What is kept was read by aiohttp's parser and passed every check when it first came, and is
kept as that reading is written down. So a head of the same letters says the same; and the
values that differ are taken only where every reader reads them alike.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from aiohttp import web
from aiohttp.http import HttpVersion11

from policies.headers import Asked
from policies.policy import Policy
from proxy.core.fields import RawHeaders, request_fields, request_head
from proxy.core.routing import Route
from proxy.services.accounts import Accounts
from proxy.services.repeats import Repeats
from proxy.web.calls import Calls
from proxy.web.shortcut import METHOD, Passage, Passing

PASSAGES_MAX: Final = 256
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


@dataclass(slots=True)
class _Known:
    """A head that came, and how calls with it pass under a policy."""

    asked: Asked
    headers: RawHeaders
    varying: tuple[int, ...]
    """Where the fields stand whose values vary."""

    length_at: int
    """Which of these is the length of the body."""

    policy: Policy
    passage: Passage


class Passages:
    """The heads of forwarded calls that came lately."""

    def __init__(
        self,
        *,
        policy: Callable[[], Policy],
        repeats: Repeats,
        accounts: Accounts,
        calls: Calls,
        annotate: bool,
    ) -> None:
        """`policy` returns the one in force; `annotate` says on each answer what was decided."""
        self._policy = policy
        self._repeats = repeats
        self._accounts = accounts
        self._calls = calls
        self._annotate = annotate
        self._known: dict[_Skeleton, _Known] = {}

    def find(self, head: bytes) -> Passing | None:
        """Return how a call with that head passes, if that is known and holds now."""
        if len(head) > _HEAD_BYTES_MAX:
            return None
        parts = _VALUES.split(head)
        known = self._known.get(_skeleton(parts))
        if known is None or self._repeats.expects_any or self._accounts.wants_news:
            return None
        values = parts[2::3]
        length = values[known.length_at]
        policy = self._policy()
        if not length.isdigit() or (len(policy.rules) and self._is_ruled(known, values, policy)):
            return None
        if policy is not known.policy:
            known.policy = policy
            was = known.passage
            known.passage = self._passage(was.route, was.target, was.template, policy)
        return Passing(known.passage, values, int(length))

    def learn(self, request: web.BaseRequest, route: Route, asked: Asked) -> None:
        """Keep the head of a call that is forwarded, as nobody has anything to say about it."""
        if request.method != METHOD or request.version != HttpVersion11 or not request.keep_alive:
            return
        if asked.retry_count or isinstance(asked.deadline, datetime):
            # Read differently at another time.
            return
        headers, policy = request.raw_headers, self._policy()
        head = request_head(METHOD, request.raw_path, headers)
        parts = _VALUES.split(head)
        skeleton = _skeleton(parts)
        if skeleton in self._known:
            # There was no room for it in the shortcut.
            return
        varying = tuple(at for at, field in enumerate(headers) if field[0].lower() in _VARYING)
        template = _template(route, headers, varying)
        if template is None or len(head) > _HEAD_BYTES_MAX or len(parts[2::3]) != len(varying):
            return
        if len(self._known) >= PASSAGES_MAX:
            del self._known[next(iter(self._known))]
        self._known[skeleton] = _Known(
            asked=asked,
            headers=headers,
            varying=varying,
            length_at=[name.lower() for name in parts[1::3]].index(_LENGTH),
            policy=policy,
            passage=self._passage(route, request.raw_path, template, policy),
        )

    def _is_ruled(self, known: _Known, values: Sequence[bytes], policy: Policy) -> bool:
        """Tell whether a rule may have something to say about the call."""
        headers, route = list(known.headers), known.passage.route
        for at, value in zip(known.varying, values, strict=True):
            headers[at] = (headers[at][0], value)
        return not policy.is_idle(
            known.asked,
            headers=tuple(headers),
            path=route.upstream_target.partition("?")[0],
            upstream=route.upstream.name,
        )

    def _passage(self, route: Route, target: str, template: bytes, policy: Policy) -> Passage:
        told = self._calls.of_passage(route, METHOD, target, generation=policy.generation)
        lines = told.annotation if self._annotate else b""
        return Passage(route, target, template, told.on_done, lines)


def _template(route: Route, headers: RawHeaders, varying: Sequence[int]) -> bytes | None:
    """Return the head that goes upstream, with a place for each value that varies.

    Nothing for a call that may not take the shortcut.
    """
    fields = request_fields(headers, host=route.upstream.host_header)
    if not fields.has_body or fields.chunked or fields.expect_continue or fields.upgrade:
        return None
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
