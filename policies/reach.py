"""Rules that no call gets to: nothing wrong with them, and hardly what was meant.

They are told and not refused. Whoever puts `then: interactive` in front of all others,
to switch them off for an hour, means it.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from policies.conditions import Divert, Rule, When
from policies.model import Answer


@dataclass(frozen=True, slots=True)
class Idle:
    """A rule that never decides, and why."""

    rule: Rule
    reason: str


def idle_rules(rules: Iterable[Rule], *, upstreams: Collection[str]) -> Iterator[Idle]:
    """Find rules that never decide a call to these upstreams, as far as that is for sure."""
    earlier: dict[When, Rule] = {}
    for rule in rules:
        wanted = rule.when.upstream
        if (taker := _taker(rule, earlier)) is not None:
            asks = "the same" if taker.when == rule.when else "nothing"
            yield Idle(rule, f"{taker.name!r} in line {taker.line} asks {asks} and comes first")
        elif wanted is not None and not any(map(wanted.matches, upstreams)):
            name, known = " or ".join(wanted.texts), ", ".join(sorted(upstreams))
            yield Idle(rule, f"no upstream is called {name}; there are {known}")
        elif rule.sample is not None and rule.sample.share == 0:
            yield Idle(rule, "its sample is 0%")
        elif not rule.shadow and rule.sample is None:
            earlier.setdefault(rule.when, rule)


def _taker(rule: Rule, earlier: dict[When, Rule]) -> Rule | None:
    """Return the rule that decides all calls which this one would, if there is one."""
    for when in (When(), rule.when):
        taker = earlier.get(when)
        if taker is not None and _takes_all(taker, rule):
            return taker
    return None


def _takes_all(taker: Rule, rule: Rule) -> bool:
    # A rule that diverts passes by what cannot run later, and streams that it does not name.
    if not isinstance(taker.then, Divert):
        return True
    return (
        isinstance(rule.then, Divert)
        and taker.then.answer is not Answer.BACKGROUND
        and taker.when.says_stream == rule.when.says_stream
    )
