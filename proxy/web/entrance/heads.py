"""What follows from the head of a call alone.

An SDK sends the same head with every call, but for the length of its body. Where it
goes, what it asks for and whose token it shows depends on nothing else, so that what is
read once serves all of them (`web/entrance/known_heads.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import NamedTuple

from aiohttp import web

from policies.fields import Tag
from policies.headers import Asked, with_usual
from policies.model import Decision, Once
from policies.policy import Policy
from proxy.core.body import ParsedBody
from proxy.core.dialects import DIALECTS, Dialect, Endpoint, Place
from proxy.core.fields import RawHeaders
from proxy.core.repeats import Digest, with_body
from proxy.core.routing import Route
from proxy.core.targets import without_credentials
from proxy.core.wrappers import takes_no_job
from proxy.ports.clock import Clock
from proxy.services.callers.clients import Clients, Exchange
from proxy.services.callers.owners import Caller, Owners, presented_to
from proxy.services.deferral.obstacles import place_at
from proxy.services.deferral.repeats import Repeats
from proxy.services.deferral.terms import Terms, fingerprint_of, is_named, kept_headers
from proxy.web.answering.answers import AnsweredCall
from proxy.web.asked import read_asked

Identify = Callable[[], Caller]
"""Tells who calls; a token is hashed when that is first asked."""


class FirstLook(NamedTuple):
    """What is read of every head, which tells whether more of the call must be."""

    route: Route
    now: datetime
    asked: Asked
    caller: Identify
    exchange: Exchange | None
    """What is changed on the way to an upstream whose key is held here."""


class Agreed(NamedTuple):
    """What follows from a decision for all calls that share a head and are answered at once."""

    decision: Decision
    terms: Terms
    answered: AnsweredCall


@dataclass(slots=True)
class CallHead:
    """The head of a call, read."""

    route: Route
    asked: Asked
    dialect: Dialect
    place: Place | None
    target: str
    """At the upstream, less credentials."""

    path: str
    """The same without the query."""

    kept: RawHeaders
    """Those fields of the head that a job keeps."""

    caller: Identify
    exchange: Exchange | None
    takes_no_job: Callable[[], bool]
    """Whether its caller names itself as one that cannot be answered with a job."""

    _fingerprint: Callable[[], Digest]
    _unnamed: Callable[[], Digest] | None
    _retagged: Callable[[], Digest] | None
    agreed: Agreed | None = None
    """By the decision that was made last."""

    _policy: Policy | None = None
    _decisions: dict[object, Decision] = field(default_factory=dict)
    """What `_policy` decided, by all of the body that it depends on."""

    @property
    def endpoint(self) -> Endpoint | None:
        return self.place.endpoint if self.place is not None else None

    def fingerprint(self, body: bytes) -> str:
        """Return what a call with this head and its repeats share."""
        return with_body(self._fingerprint(), body)

    def unnamed(self, body: bytes) -> str | None:
        """Return the same without the name that the caller gave its call, if it did."""
        return None if self._unnamed is None else with_body(self._unnamed(), body)

    def retagged(self, body: bytes) -> str | None:
        """Return the fingerprint that a named call would have with its tag added or taken away."""
        return None if self._retagged is None else with_body(self._retagged(), body)

    def decision(self, policy: Policy, parsed: ParsedBody) -> Decision | None:
        """Return what was decided about a call with this head and such a body, if it was."""
        return self._decisions.get(_telling(parsed)) if policy is self._policy else None

    def keep_decision(self, policy: Policy, parsed: ParsedBody, decision: Decision) -> None:
        """Keep a decision in which no rule had a part."""
        if policy is not self._policy:
            self._policy = policy
            self._decisions.clear()
        self._decisions[_telling(parsed)] = decision


class HeadReader:
    """Takes the first look at heads."""

    def __init__(
        self, *, owners: Owners, clients: Clients, clock: Clock, usual: RawHeaders = ()
    ) -> None:
        """`usual` are headers of ours that apply to calls which do not carry them."""
        self._owners = owners
        self._clients = clients
        self._clock = clock
        self._usual = usual

    def look(self, request: web.BaseRequest, route: Route) -> FirstLook:
        """Return what a call asks for, and who sent it.

        Raises:
            CallerError: if its caller may not make it, or what it asks for cannot be read.
        """
        headers, now = request.raw_headers, self._clock.now()
        exchange = self._clients.admit(request.method, headers, route)
        asked = read_asked(with_usual(headers, self._usual), now=now)

        def identify() -> Caller:
            presented = presented_to(route.upstream, headers, route.upstream_target)
            return self._owners.identify(presented, route.upstream.name)

        return FirstLook(route, now, asked, Once(identify), exchange)


def may_repeat(asked: Asked, caller: Identify, policy: Policy, repeats: Repeats) -> bool:
    """Return whether a call, by its head, may be the repeat of one that was deferred.

    A repeat has the head of the first call. So a call that does not ask to be deferred repeats none
    that did (their fingerprints differ). Without being asked only rules defer calls: where there
    never were any, nothing has to be looked for.
    """
    if not asked.defers and (asked.tag is Tag.FALSE or policy.generation == 0):
        return False
    if asked.retry_count >= 1:
        return True
    return repeats.expects_any and repeats.expects(caller().owner, asked.run)


def read_head(request: web.BaseRequest, look: FirstLook) -> CallHead:
    """Return what follows from the head."""
    route, asked, caller = look.route, look.asked, look.caller
    dialect = DIALECTS[route.upstream.dialect]
    target = without_credentials(route.upstream_target)
    kept = kept_headers(dialect, request.raw_headers)

    def begun(asked: Asked | None = None, *, tagged: bool | None = None) -> Digest:
        return fingerprint_of(
            caller(), dialect, target=target, headers=kept, asked=asked, tagged=tagged
        )

    place = place_at(route.upstream, route.upstream_target)
    fields, named = request.raw_headers, is_named(asked)

    def is_no_help() -> bool:
        names = (value for name, value in fields if name.lower() == b"user-agent")
        return place is not None and takes_no_job(next(names, None), place.endpoint.shape)

    return CallHead(
        route=route,
        asked=asked,
        dialect=dialect,
        place=place,
        target=target,
        path=route.upstream_target.partition("?")[0],
        kept=kept,
        caller=caller,
        exchange=look.exchange,
        takes_no_job=Once(is_no_help),
        _fingerprint=Once(partial(begun, asked=asked)),
        _unnamed=Once(begun) if named else None,
        _retagged=Once(partial(begun, asked, tagged=not asked.defers)) if named else None,
    )


def _telling(parsed: ParsedBody) -> object:
    """Return all of a body that a decision by headers alone depends on (`header_opinion`)."""
    return parsed.streaming, parsed.fields.get("background") is True
