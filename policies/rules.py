"""What the operator wrote, compiled once: ordered rules of which the first match wins.

A rule in shadow mode never ends the search: switching one on changes nothing
for anybody, it only leaves what it would have decided beside the decision.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from policies.conditions import Divert, Refuse, Rule
from policies.index import ContentIndex, RuleIndex
from policies.matchers import Matcher, content_matchers, guards, head_matchers, readable, sampler
from policies.model import (
    UNDECIDED,
    CallFacts,
    Decision,
    Defer,
    Forward,
    RawHeaders,
    Reject,
    beside,
    by_rule,
)


class CompiledRule:
    """One rule, ready to be asked."""

    __slots__ = ("_content", "_head", "decision", "rule")

    def __init__(self, rule: Rule) -> None:
        self.rule: Final = rule
        self.decision: Final = _decision(rule)
        head, content = head_matchers(rule.when), content_matchers(rule.when)
        if rule.sample is not None:
            draw = sampler(rule.name, rule.sample)
            (head if rule.sample.by else content).append(draw)
        first = [readable()] if content else []
        self._head: Final = tuple(head)
        self._content: Final = (*(guards(rule) or first), *content)

    @property
    def matchers(self) -> tuple[Matcher, ...]:
        """All conditions in the order in which they are asked."""
        return (*self._head, *self._content)

    def matches(self, facts: CallFacts) -> bool:
        """Return whether every condition holds."""
        return self.may_match(facts) and all(matcher.test(facts) for matcher in self._content)

    def may_match(self, facts: CallFacts) -> bool:
        """Return whether every condition holds that can be told without the body."""
        if self._content and facts.obstacle is not None:
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
        conditions = [rule.rule.when for rule in self.compiled]
        self._index: Final = RuleIndex.of(conditions)
        self._content: Final = ContentIndex.of(conditions)

    def __len__(self) -> int:
        return len(self.compiled)

    def listed(self) -> Sequence[Rule]:
        """Return the rules as they were written, in their order."""
        return [compiled.rule for compiled in self.compiled]

    def concerns(
        self, *, headers: RawHeaders, tags: Mapping[str, str], path: str, upstream: str
    ) -> bool:
        """Return whether any rule could match a call with this head; false is for sure."""
        return self._index.concerns(headers=headers, tags=tags, path=path, upstream=upstream)

    def wants_body(self, facts: CallFacts) -> bool:
        """Return whether the rules cannot decide this call before its body is read."""
        for number in self._index.possible(facts):
            rule = self.compiled[number]
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

    def _candidates(self, facts: CallFacts) -> Iterator[CompiledRule]:
        """Yield the rules that what the call has leaves possible, in order.

        Its body is looked into only where the first rule is met that wants it.
        """
        possible = self._index.possible(facts)
        for place, number in enumerate(possible):
            rule = self.compiled[number]
            if not rule.wants_content:
                yield rule
            elif rule.may_match(facts):
                among = self._content.possible(facts)
                yield from [self.compiled[each] for each in possible[place:] if each in among]
                return


def _decision(rule: Rule) -> Decision:
    decided_by, reason = by_rule(rule.name), f"rule {rule.name!r} matched"
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
