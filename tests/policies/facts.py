"""Facts of calls for the tests of policies: a test states only what matters to it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from policies.grammar import RULES
from policies.model import CallFacts, Identity
from policies.rules import RuleSet
from policies.tree import Mapping as MappingNode
from policies.tree import Mark, Node, Scalar, Sequence

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
"""A Monday."""


class UnreadBodyError(AssertionError):
    """Something asked for a body that it should not need."""


def unread() -> None:
    raise UnreadBodyError


def raw(headers: Mapping[str, str] | None = None) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((k.encode("latin-1"), v.encode("latin-1")) for k, v in (headers or {}).items())


def make_facts(
    body: Any = ...,
    *,
    headers: Any = None,
    owner: Iterable[str] = (),
    credential: Iterable[str] = (),
    tokens: Any = None,
    **facts: Any,
) -> CallFacts:
    """A deferrable chat call; `body=None` is unreadable, `body=unread` must not be read."""
    content = {"model": "gpt-5-mini", "messages": []} if body is ... else body
    known = CallFacts(
        method="POST",
        upstream="openai",
        path="/v1/chat/completions",
        headers=raw(headers) if headers is None or isinstance(headers, Mapping) else headers,
        now=NOW,
        obstacle=None,
        identity=lambda: Identity(frozenset(owner), frozenset(credential)),
        body=content if callable(content) else lambda: content,
        tokens=tokens if callable(tokens) else lambda: tokens,
        digest=lambda: sha256(json.dumps(content).encode()).digest(),
    )
    return replace(known, **facts)


def tree(data: Any) -> Node:
    """The tree that a document with these data makes, all at one place."""
    here = Mark(1, 1)
    match data:
        case dict():
            entries = [(Scalar(key, key, here), tree(value)) for key, value in data.items()]
            return MappingNode(tuple(entries), here)
        case list() | tuple():
            return Sequence(tuple(map(tree, data)), here)
    return Scalar(data, str(data), here)


def rule_set(*rules: Mapping[str, Any], **only: Any) -> RuleSet:
    """The rules of a file; `only` is the single rule's, named `r`, which defers."""
    written = [*rules, {"name": "r", "then": "defer", **only}] if only else list(rules)
    return RuleSet(RULES.read(tree(written)))


def matches(facts: CallFacts, **rule: Any) -> bool:
    """Whether a rule that says this decides the call."""
    return rule_set(**{"then": "interactive", **rule}).opinion(facts) is not None
