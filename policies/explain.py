"""Why a call is decided as it is: what every rule says to it, up to the one that decides."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from policies.model import UNDECIDED, CallFacts, Decision
from policies.rules import CompiledRule, RuleSet

LONGEST_SHOWN: Final = 80


class Verdict(StrEnum):
    """What a rule comes to for one call."""

    DECIDES = "decides"
    SHADOW = "would decide"
    """It matches, but in shadow mode: the search goes on."""

    NO_MATCH = "does not match"
    NOT_ASKED = "not asked"
    """An earlier rule has decided."""


@dataclass(frozen=True, slots=True)
class Step:
    """One rule's part in a decision."""

    rule: str
    line: int
    """Where the rule stands in its file."""

    verdict: Verdict
    key: str | None = None
    """With `NO_MATCH`: the first condition that does not hold, e.g. `headers.user-agent`."""

    wanted: str | None = None
    actual: str | None = None
    """What the call has instead, shortened."""

    def __str__(self) -> str:
        said = f"{self.rule}: {self.verdict}"
        if self.key is None:
            return said
        return f"{said}: {self.key} is {self.actual}, wanted {self.wanted}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decision of the rules about one call, and how they came to it."""

    decision: Decision
    steps: tuple[Step, ...]
    """One per rule, in order."""


def explain(rules: RuleSet, facts: CallFacts) -> Explanation:
    """Return what the rules decide about a call and why every earlier one does not."""
    return Explanation(rules.opinion(facts) or UNDECIDED, tuple(_steps(rules, facts)))


def _steps(rules: RuleSet, facts: CallFacts) -> Iterator[Step]:
    decided = False
    for compiled in rules.compiled:
        step = _not_asked(compiled) if decided else _step(compiled, facts)
        decided = decided or step.verdict is Verdict.DECIDES
        yield step


def _not_asked(compiled: CompiledRule) -> Step:
    return Step(compiled.rule.name, compiled.rule.line, Verdict.NOT_ASKED)


def _step(compiled: CompiledRule, facts: CallFacts) -> Step:
    rule = compiled.rule
    for matcher in compiled.matchers:
        if not matcher.test(facts):
            actual = _shown(matcher.actual(facts))
            return Step(rule.name, rule.line, Verdict.NO_MATCH, matcher.key, matcher.wanted, actual)
    return Step(rule.name, rule.line, Verdict.SHADOW if rule.shadow else Verdict.DECIDES)


def _shown(value: object) -> str:
    match value:
        case None:
            return "missing"
        case bool():
            return str(value).lower()
        case str():
            text = repr(value)
        case _:
            text = str(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
