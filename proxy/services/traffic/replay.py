"""Decide calls that somebody wrote down or captured, as a running service would.

The decision, the table of paths and the routing are those of live traffic. What
a description does not say is an ordinary call: JSON, and of a known length.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from policies.cases import Call, call_facts, written_body
from policies.explain import Step, Verdict, explain
from policies.headers import HeaderError, read_headers
from policies.load import load_call, parse_yaml
from policies.model import Answer, CallFacts, Decision, Once, Reject
from policies.policy import Policy
from policies.rules import RuleSet
from policies.tree import plain
from proxy.core.body import estimate_tokens
from proxy.core.dialects import credential_hash
from proxy.core.errors import CallerError
from proxy.core.routing import Refusal, resolve
from proxy.core.upstream import Upstream
from proxy.services.callers.owners import presented_to
from proxy.services.deferral.obstacles import HeadFacts, obstacle, place_at
from proxy.telemetry.redact import redacted


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a running service knows beside the call."""

    upstreams: Mapping[str, Upstream]
    max_body_bytes: int
    owners: Mapping[str, str] = field(default_factory=dict)
    """The owner's configured name, by the hash of each of its tokens."""

    default_answer: Answer = Answer.JOB

    def obstacle_of(self, call: Call) -> str | None:
        """Return why a call with this head cannot run later, or nothing."""
        upstream = self.upstreams.get(call.upstream)
        if upstream is None:
            return f"no upstream is called {call.upstream!r} (configured: {_listed(self)})"
        place = place_at(upstream, call.path)
        head = HeadFacts(
            method=call.method,
            upstream=upstream,
            endpoint=place.endpoint if place is not None else None,
            content_type=_header(call, b"content-type", "application/json"),
            content_encoding=_header(call, b"content-encoding", "identity"),
            length=len(written_body(call.body)),
        )
        return obstacle(head, max_body_bytes=self.max_body_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A decision, and how it came about."""

    decision: Decision
    steps: tuple[Step, ...]
    """One per rule, in order; none is asked if a header of the call is bad."""


def read_call(text: str, name: str, scene: Scene) -> Call:
    """Return the call that a JSON or YAML text describes, at the upstream where it goes.

    Without `upstream` it goes where a call with that path and these headers goes,
    or to `openai` if neither tells. A credential among the headers says whose it is.

    Raises:
        PolicyError: with everything that is wrong with the text.
        CallerError: if such a call would reach no upstream.
    """
    call = load_call(text, name)
    said = _keys(text)
    if isinstance(call.body, str):
        call = replace(call, body=_parsed(call.body))
    if "upstream" not in said:
        call = _routed(call, scene)
    if not said & {"owner", "credential"}:
        call = _identified(call, scene)
    return replace(call, path=call.path.partition("?")[0])


def tell(
    rules: RuleSet, call: Call, scene: Scene, *, now: datetime, at: datetime | None = None
) -> Told:
    """Return what happens to a call, and what each rule says to it.

    It arrives at `at`, or else when it says, or else `now`.
    """
    call = replace(call, now=at or call.now)
    try:
        facts = call_facts(call, now=now, obstacle_of=scene.obstacle_of)
    except HeaderError as exc:
        return Told(decision=Reject(status=400, message=str(exc), decided_by="header"), steps=())
    if call.tokens is None:
        facts = replace(facts, tokens=Once(lambda: estimate_tokens(written_body(call.body))))
    return tell_facts(rules, facts, scene)


def tell_facts(rules: RuleSet, facts: CallFacts, scene: Scene) -> Told:
    """Return the same for facts that are known already."""
    asked = read_headers(facts.headers, now=facts.now)
    decision = Policy(rules, default_answer=scene.default_answer).decide(asked, facts)
    return Told(decision=decision, steps=tuple(map(_shown, explain(rules, facts).steps)))


def _shown(step: Step) -> Step:
    """Return a step as it may be printed: headers of a captured call can hold anything."""
    if step.verdict is not Verdict.NO_MATCH:
        return step
    return replace(step, actual=str(redacted(step.actual)))


def _keys(text: str) -> set[str]:
    data = plain(parse_yaml(text))
    assert isinstance(data, dict)
    return set(data)


def _parsed(body: str) -> object:
    """Return the body that a capturing tool kept as text; as it is, if it is no JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return body


def _routed(call: Call, scene: Scene) -> Call:
    route = resolve(call.path, call.headers, scene.upstreams)
    if not isinstance(route, Refusal):
        return replace(call, upstream=route.upstream.name, path=route.upstream_target)
    if route.code != "unknown_upstream":
        raise route.error()
    # A description mostly leaves out the key, which alone tells an OpenAI call.
    if call.upstream not in scene.upstreams:
        raise CallerError(f"say to which `upstream` the call goes: {_listed(scene)}")
    return call


def _identified(call: Call, scene: Scene) -> Call:
    """Return the call with the names that its credential has in rules, if it shows one.

    The keyed hash, by which a running service knows it too, needs that service's key.
    """
    upstream = scene.upstreams.get(call.upstream)
    if upstream is None:
        return call
    presented = presented_to(upstream, call.headers, call.path)
    if presented is None:
        return call
    hashed = credential_hash(presented.token)
    names = (scene.owners[hashed],) if hashed in scene.owners else ()
    return replace(call, owner=(*names, hashed), credential=(hashed,))


def _header(call: Call, wanted: bytes, usual: str) -> str:
    for name, value in call.headers:
        if name.lower() == wanted:
            return value.decode("latin-1").partition(";")[0].strip().lower()
    return usual


def _listed(scene: Scene) -> str:
    return ", ".join(sorted(scene.upstreams))
