"""What a rule can ask of a call, as data: built by the loader, compiled by `matchers`.

Every condition that is not written is absent (nothing or empty) and asks nothing.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from policies.globs import Patterns
from policies.model import Answer, Lane
from policies.windows import Window

SECRET_HEADERS: Final = frozenset(
    {"authorization", "proxy-authorization", "cookie", "x-api-key", "x-goog-api-key", "api-key"}
)
"""Rules may ask whether there is one; whose it is, is what `credential` and `owner` are for."""


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `min` to `max`, both included; nothing is no bound."""

    min: float | None = None
    max: float | None = None

    def contains(self, number: float) -> bool:
        """Return whether the number lies within the bounds."""
        return (self.min is None or number >= self.min) and (self.max is None or number <= self.max)

    def __str__(self) -> str:
        if self.min == self.max:
            return f"{self.min:g}"
        bounds = (("min", self.min), ("max", self.max))
        return ", ".join(f"{name} {bound:g}" for name, bound in bounds if bound is not None)


@dataclass(frozen=True, slots=True)
class Values:
    """Which values of a body field will do; kinds of value are never converted."""

    patterns: Patterns | None = None
    """For texts; its lone `*` takes a value of any kind."""

    ranges: tuple[Range, ...] = ()
    booleans: frozenset[bool] = frozenset()

    def match(self, value: object) -> bool:
        """Return whether the value will do. JSON's `null` counts as missing."""
        if value is None:
            return False
        if self.patterns is not None and self.patterns.takes_any:
            return True
        match value:
            case bool():
                return value in self.booleans
            case int() | float():
                return any(range_.contains(value) for range_ in self.ranges)
            case str():
                return self.patterns is not None and self.patterns.matches(value)
        return False

    def __str__(self) -> str:
        texts = self.patterns.texts if self.patterns else ()
        booleans = (str(value).lower() for value in sorted(self.booleans))
        return " or ".join((*texts, *map(str, self.ranges), *booleans))


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """The conditions of one rule: all that are written must hold."""

    upstream: Patterns | None = None
    method: Patterns | None = None
    path: Patterns | None = None
    headers: tuple[tuple[str, Patterns], ...] = ()
    """Names in lower case."""

    tags: tuple[tuple[str, Patterns], ...] = ()
    owner: Patterns | None = None
    credential: Patterns | None = None
    time: tuple[Window, ...] = ()
    body_bytes: Range | None = None
    model: Patterns | None = None
    stream: frozenset[bool] = frozenset()
    has_tools: frozenset[bool] = frozenset()
    tokens: Range | None = None
    body: tuple[tuple[str, Values], ...] = ()
    """By dotted path; a number in it is an index into a list."""

    @property
    def says_stream(self) -> bool:
        """Whether the rule means streams: without saying so it diverts none."""
        return True in self.stream or any(
            path == "stream" and True in values.booleans for path, values in self.body
        )


@dataclass(frozen=True, slots=True)
class Interactive:
    """Forward the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Divert:
    """Defer the call, although its caller did not ask for it."""

    answer: Answer = Answer.WAIT
    """A caller that did not ask for a job cannot do anything with one, so the default holds."""

    deadline: timedelta | None = None
    tags: tuple[tuple[str, str], ...] = ()
    lane: Lane | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Refuse the call."""

    message: str
    status: int = 403


Outcome = Interactive | Divert | Refuse

INTERACTIVE: Final = Interactive()


@dataclass(frozen=True, slots=True)
class Sample:
    """A stable share of the calls that the conditions let through."""

    share: float
    """Within 0 and 1."""

    by: str | None = None
    """A header, in lower case: equal values fall on the same side. Else equal calls do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What the operator wrote: where all conditions hold, do this."""

    name: str
    then: Outcome
    when: When = When()
    sample: Sample | None = None
    shadow: bool = False
    """Decide and count, but change nothing."""

    line: int = 0
    """Where it stands in its file."""
