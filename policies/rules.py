"""What the operator wrote, compiled once: ordered rules of which the first match wins.

A rule in shadow mode never ends the search: switching one on changes nothing
for anybody, it only leaves what it would have decided beside the decision.

Most rules ask for some header, and most calls do not have it. So rules are found
by the headers that a call has, and one that asks for another costs it nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from policies.conditions import Divert, Refuse, Rule
from policies.globs import Patterns
from policies.matchers import Matcher, content_matchers, guards, head_matchers, sampler
from policies.model import UNDECIDED, CallFacts, Decision, Defer, Forward, Reject, beside

MEMO_SIZE: Final = 512
MEMO_VALUE_BYTES: Final = 256

# Sent with nearly every call: telling rules apart by anything else is better.
_COMMON_HEADERS: Final = frozenset(
    {"accept", "accept-encoding", "connection", "content-length", "content-type", "host"}
    | {"user-agent", "x-stainless-lang"}
)


class CompiledRule:
    """One rule, ready to be asked."""

    __slots__ = ("_content", "_diverts", "_head", "decision", "needs_content", "rule")

    def __init__(self, rule: Rule) -> None:
        self.rule: Final = rule
        self.decision: Final = _decision(rule)
        head, content = head_matchers(rule.when), content_matchers(rule.when)
        if rule.sample is not None:
            draw = sampler(rule.name, rule.sample)
            (head if rule.sample.by else content).append(draw)
        self.needs_content: Final = bool(content)
        self._diverts = isinstance(rule.then, Divert)
        self._head: Final = tuple(head)
        self._content: Final = (*guards(rule), *content)

    @property
    def matchers(self) -> tuple[Matcher, ...]:
        """All conditions in the order in which they are asked."""
        return (*self._head, *self._content)

    def matches(self, facts: CallFacts) -> bool:
        """Return whether every condition holds."""
        return self.may_match(facts) and all(matcher.test(facts) for matcher in self._content)

    def may_match(self, facts: CallFacts) -> bool:
        """Return whether every condition holds that can be told without the body."""
        if self._diverts and facts.obstacle is not None:
            return False
        return all(matcher.test(facts) for matcher in self._head)

    @property
    def wants_content(self) -> bool:
        """Whether more than the head is asked: a call that is diverted must be readable."""
        return bool(self._content)


class RuleSet:
    """All rules of a service, in order. Never changed: a reload makes a new one."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self.compiled: Final = tuple(map(CompiledRule, rules))
        self.needs_body: Final = any(rule.needs_content for rule in self.compiled)
        """Whether any condition is about the body. Diverting a call reads it in any case."""

        self._always, self._anchors = _anchored(self.compiled)

    def __len__(self) -> int:
        return len(self.compiled)

    def wants_body(self, facts: CallFacts) -> bool:
        """Return whether the rules cannot decide this call before its body is read."""
        for rule in self._candidates(facts):
            if rule.may_match(facts):
                if rule.wants_content:
                    return True
                if not rule.rule.shadow:
                    return False
        return False

    def opinion(self, facts: CallFacts) -> Decision | None:
        """Return the decision of the first rule that matches, with any shadow beside it."""
        shadow: Decision | None = None
        for rule in self._candidates(facts):
            if not rule.matches(facts):
                continue
            if not rule.rule.shadow:
                return beside(rule.decision, shadow)
            shadow = shadow or rule.decision
        return None if shadow is None else replace(UNDECIDED, shadow=shadow)

    def _candidates(self, facts: CallFacts) -> Sequence[CompiledRule]:
        """Return the rules that the names and values of the call's headers leave possible."""
        if not self._anchors:
            return self.compiled
        found: set[int] = set()
        for raw_name, value in facts.headers:
            anchor = self._anchors.get(raw_name.lower())
            if anchor is not None:
                found.update(anchor.rules(value))
        return [self.compiled[index] for index in sorted(found.union(self._always))]


class _Anchor:
    """The rules that ask for one header, by its value.

    Values repeat from call to call, so what was found for one is remembered; the
    memory is bounded, and dropped whole when it is full.
    """

    __slots__ = ("_asking", "_memo")

    def __init__(self) -> None:
        self._asking: list[tuple[int, Patterns]] = []
        self._memo: dict[bytes, tuple[int, ...]] = {}

    def add(self, index: int, patterns: Patterns) -> None:
        self._asking.append((index, patterns))

    def rules(self, value: bytes) -> tuple[int, ...]:
        found = self._memo.get(value)
        if found is None:
            text = value.decode("latin-1")
            found = tuple(index for index, patterns in self._asking if patterns.matches(text))
            if len(value) <= MEMO_VALUE_BYTES:
                if len(self._memo) >= MEMO_SIZE:
                    self._memo.clear()
                self._memo[value] = found
        return found


def _anchored(
    compiled: Sequence[CompiledRule],
) -> tuple[frozenset[int], dict[bytes, _Anchor]]:
    """Return the rules that ask for no header, and the others by one that they ask for."""
    always: list[int] = []
    anchors: dict[bytes, _Anchor] = {}
    for index, rule in enumerate(compiled):
        headers = rule.rule.when.headers
        if not headers:
            always.append(index)
            continue
        name, patterns = min(headers, key=lambda header: header[0] in _COMMON_HEADERS)
        anchors.setdefault(name.encode(), _Anchor()).add(index, patterns)
    return frozenset(always), anchors


def _decision(rule: Rule) -> Decision:
    decided_by, reason = f"rule:{rule.name}", f"rule {rule.name!r} matched"
    match rule.then:
        case Divert(answer=answer, deadline=deadline, tags=tags, lane=lane):
            return Defer(
                answer=answer,
                decided_by=decided_by,
                reason=reason,
                deadline=deadline,
                tags=tags,
                lane=lane,
            )
        case Refuse(message=message, status=status):
            return Reject(status=status, message=message, decided_by=decided_by)
    return Forward(decided_by=decided_by, reason=reason)
