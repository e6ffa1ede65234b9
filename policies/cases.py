"""Tests of rules, written beside them: calls, and what is expected of each.

A case runs the whole decision, the caller's headers included, so that it also
shows what a tag does to a call that a rule would leave alone.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final, TypeVar

from policies.durations import format_duration
from policies.fields import read_time
from policies.grammar import (
    ANSWER,
    BOOLEAN,
    COUNT,
    DEADLINE,
    LANE,
    RULE_NAME,
    STATUS,
    TAGS,
    read_header_name,
)
from policies.headers import HeaderError, read_headers
from policies.kinds import Kind, Record, dict_of, list_of, one_or_many, text, word
from policies.model import (
    CallFacts,
    Decision,
    Forward,
    Identity,
    Once,
    RawHeaders,
    Reject,
    deciding_rule,
)
from policies.policy import Policy
from policies.rules import RuleSet
from policies.tree import Node, plain

T = TypeVar("T")

DEFAULT_NOW: Final = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
"""A Monday at noon: when a call arrives that does not say when."""

_BYTES_A_TOKEN: Final = 4
"""Roughly, for English: what a call is taken for that does not say its tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call as people write it down to ask about it."""

    method: str = "POST"
    upstream: str = "openai"
    path: str = "/v1/chat/completions"
    headers: RawHeaders = ()
    body: object = None
    owner: tuple[str, ...] = ()
    credential: tuple[str, ...] = ()
    tokens: int | None = None
    now: datetime | None = None
    deferrable: bool | None = None
    """Whether the head of the call lets it run later; nothing: as `ObstacleOf` says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One call, and what is expected of it."""

    name: str
    line: int
    call: Call
    expected: Mapping[str, object]
    """Those entries of what `outcome` returns that matter."""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """How a case went; without failures it passed."""

    case: Case
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether all was as expected."""
        return not self.failures


ObstacleOf = Callable[[Call], str | None]
"""Says why a call with this head cannot run later, or nothing."""


def only_posts(call: Call) -> str | None:
    """Return what bars a call where the upstream's table of paths is not known."""
    return None if call.method == "POST" else f"{call.method} calls cannot be deferred"


def call_facts(call: Call, *, now: datetime, obstacle_of: ObstacleOf = only_posts) -> CallFacts:
    """Return the facts of a written call; `now` counts if the call does not say when.

    Raises:
        HeaderError: as `read_headers` does for a real call.
    """
    when = call.now or now
    asked = read_headers(call.headers, now=when)
    raw = written_body(call.body)
    body = call.body if isinstance(call.body, dict) else None
    target = f"{call.path}\n".encode("utf-8", "surrogateescape")
    barred = "it is marked as not deferrable" if call.deferrable is False else None
    return CallFacts(
        method=call.method,
        upstream=call.upstream,
        path=call.path,
        headers=call.headers,
        now=when,
        obstacle=obstacle_of(call) if call.deferrable is None else barred,
        tags=asked.tags,
        body_bytes=len(raw),
        identity=lambda: Identity(frozenset(call.owner), frozenset(call.credential)),
        body=lambda: body,
        tokens=lambda: len(raw) // _BYTES_A_TOKEN if call.tokens is None else call.tokens,
        digest=Once(lambda: sha256(target + raw).digest()),
    )


def written_body(body: object) -> bytes:
    """Return the bytes that SDKs write for a body, so that samples are drawn as in service."""
    if body is None:
        return b""
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def run_cases(
    rules: RuleSet, cases: Iterable[Case], *, obstacle_of: ObstacleOf = only_posts
) -> list[CaseResult]:
    """Run every case and report each."""
    policy = Policy(rules)
    return [CaseResult(case, tuple(_failures(policy, case, obstacle_of))) for case in cases]


def outcome(decision: Decision) -> dict[str, object]:
    """Return a decision as people write what they expect of it."""
    shadow = decision.shadow
    seen: dict[str, object] = {
        "rule": deciding_rule(decision.decided_by),
        "shadow": None if shadow is None else deciding_rule(shadow.decided_by),
    }
    match decision:
        case Forward():
            return {"decision": "interactive", **seen}
        case Reject():
            return {"decision": "reject", "status": decision.status, **seen}
    return {
        "decision": "defer",
        "answer": decision.answer,
        "deadline": decision.deadline,
        "lane": decision.lane,
        "tags": dict(decision.tags),
        **seen,
    }


def _failures(policy: Policy, case: Case, obstacle_of: ObstacleOf) -> Iterable[str]:
    try:
        facts = call_facts(case.call, now=DEFAULT_NOW, obstacle_of=obstacle_of)
    except HeaderError as exc:
        decision: Decision = Reject(status=400, message=str(exc), decided_by="header")
        bar = None
    else:
        bar = facts.bar()
        decision = policy.decide(read_headers(facts.headers, now=facts.now), facts)
    seen = outcome(decision)
    for key, expected in case.expected.items():
        if seen.get(key) != expected:
            why = ""
            if (key, expected) == ("decision", "defer") and bar is not None:
                # Most often the call of the test was given no body.
                why = f"; it cannot run later: {bar}"
            yield f"{key} is {_shown(seen.get(key))}, expected {_shown(expected)}{why}"


def _shown(value: object) -> str:
    match value:
        case None:
            return "none"
        case timedelta():
            return format_duration(value)
        case dict():
            return ", ".join(f"{name}={tag}" for name, tag in value.items()) or "none"
    return str(value)


def _raw_headers(values: Mapping[str, tuple[str, ...]]) -> RawHeaders:
    return tuple(
        (name.encode(), value.encode("latin-1", "replace"))
        for name, texts in values.items()
        for value in texts
    )


_ANY: Final = Kind(plain, {})
_NAMES: Final = one_or_many(text("a name"))

CALL: Final = Record(
    {
        "method": text("an HTTP method").then(str.upper),
        "upstream": text("the name of an upstream"),
        "path": text("a raw path at the upstream", longest=4096),
        "headers": dict_of(
            read_header_name,
            one_or_many(text("a text", longest=8192)),
            allowed="a mapping of headers",
        ).then(_raw_headers),
        "body": _ANY.noted("The JSON body."),
        "owner": _NAMES,
        "credential": _NAMES,
        "tokens": COUNT.noted("Estimated tokens of the prompt; default: from the body's size."),
        "now": text("a time").then(read_time).noted("RFC 3339; default: Monday noon, UTC."),
        "deferrable": BOOLEAN.noted("Whether path and method let it run later."),
    },
    lambda values, _: Call(**values),
).kind()


def _or_none(kind: Kind[T]) -> Kind[T | None]:
    """Return the kind that also takes `null`."""

    def read(node: Node) -> T | None:
        return None if plain(node) is None else kind.read(node)

    return Kind(read, {"anyOf": [{"type": "null"}, kind.schema]})


_EXPECTED: Final = Record(
    {
        "decision": word("interactive", "defer", "reject"),
        "rule": _or_none(RULE_NAME).noted("The rule that decides; null: none does."),
        "shadow": _or_none(RULE_NAME).noted("The rule in shadow mode that would decide."),
        "answer": ANSWER,
        "deadline": _or_none(DEADLINE),
        "lane": _or_none(LANE),
        "tags": TAGS,
        "status": STATUS,
    },
    lambda values, _: dict(values),
    least=1,
).kind()


def _case(values: Mapping[str, Any], node: Node) -> Case:
    call = values.get("call", Call())
    return Case(name=values["name"], line=node.mark.line, call=call, expected=values["expect"])


CASES: Final = list_of(
    Record(
        {"name": text("what is expected, in words"), "call": CALL, "expect": _EXPECTED},
        _case,
        required=("name", "expect"),
    ).kind()
)
