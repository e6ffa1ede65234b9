"""What is known of a call before it is decided, and what can be decided about it.

Rule 1: an opinion is a pure function of the facts. It never reads a clock, a
store or the network, so any decision can be replayed from what was logged of it.

Rule 2: facts that cost something to know (the parsed body, whose credential it
is) are functions, and no opinion calls one unless the decision depends on it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Generic, TypeVar, cast

RawHeaders = tuple[tuple[bytes, bytes], ...]
"""Header fields as they arrived: order, case and duplicates kept."""

JsonObject = Mapping[str, object]

T = TypeVar("T")

# Google names the model in the path and nowhere else (Gemini API, REST
# reference, `models.generateContent` and its siblings).
_PATH_MODEL: Final = re.compile(
    r"/(?:models|tunedModels)/([^/:]+)"
    r":(?:generateContent|streamGenerateContent|embedContent|batchEmbedContents|countTokens)\Z"
)
_PATH_STREAMS: Final = ":streamGenerateContent"


class Answer(StrEnum):
    """How the caller of a deferred call is answered. The values are public."""

    JOB = "job"
    """At once, with a job ID."""

    WAIT = "wait"
    """With the provider's own answer, the connection being held until then."""

    BACKGROUND = "background"
    """At once, with a pending Response; only `/v1/responses` knows that."""

    RAISE = "raise"
    """At once, with an error that carries the job ID."""


class Lane(StrEnum):
    """The ways a deferred call can get its answer that a rule may prefer."""

    BATCH = "batch"
    FLEX = "flex"
    TRICKLE = "trickle"
    INTERACTIVE = "interactive"


class Once(Generic[T]):
    """A function without arguments that computes its answer at most once."""

    __slots__ = ("_compute", "_known")

    def __init__(self, compute: Callable[[], T]) -> None:
        self._compute: Callable[[], T] | None = compute
        self._known: T | None = None

    def __call__(self) -> T:
        if self._compute is not None:
            self._known = self._compute()
            self._compute = None
        return cast("T", self._known)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls, by the names that the configuration gives and by hash."""

    owner: frozenset[str] = frozenset()
    """The owner's configured name, if there is one, and the owner's hash."""

    credential: frozenset[str] = frozenset()
    """The credential's configured name, if there is one, and its hash."""


NOBODY: Final = Identity()


def _nothing() -> None:
    return None


def _nobody() -> Identity:
    return NOBODY


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFacts:
    """One call, as far as a decision may depend on it."""

    method: str
    upstream: str
    path: str
    """Raw path at the upstream, without the query."""

    headers: RawHeaders
    now: datetime
    """When the call arrived; aware."""

    obstacle: str | None
    """Why a call with this head cannot run later, in words for its caller; or nothing.

    Not POST, not JSON, or a path that the upstream's table does not know.
    """

    tags: Mapping[str, str] | None = None
    """From `X-Deferrable-Tags`."""

    body_bytes: int | None = None
    identity: Callable[[], Identity] = _nobody
    body: Callable[[], JsonObject | None] = _nothing
    """The parsed body, or nothing if it is no JSON object (or not read yet)."""

    tokens: Callable[[], int | None] = _nothing
    """Estimated prompt tokens."""

    digest: Callable[[], bytes | None] = _nothing
    """A hash of target and body, equal for equal calls, for stable samples."""

    def header(self, name: bytes) -> list[bytes]:
        """Return the values of a header, its `name` given in lower case."""
        size = len(name)
        return [
            value for field, value in self.headers if len(field) == size and field.lower() == name
        ]

    def model(self) -> str | None:
        """Return the model that the path or else the body names."""
        if (match := _PATH_MODEL.search(self.path)) is not None:
            return match[1]
        model = (self.body() or {}).get("model")
        return model if isinstance(model, str) else None

    def is_for_responses(self) -> bool:
        """Return whether the call is to `/v1/responses`: `background` answers nothing else."""
        # An upstream's base URL may put something before its own paths.
        return self.path.endswith("/v1/responses")

    def streams(self) -> bool | None:
        """Return whether the caller wants a stream; nothing if the body is unreadable."""
        if self.path.endswith(_PATH_STREAMS):
            return True
        body = self.body()
        return None if body is None else body.get("stream") is True

    def bar(self) -> str | None:
        """Return why this call cannot run later, in words for its caller, or nothing.

        Reads the body if the head bars nothing.
        """
        if self.obstacle is not None:
            return self.obstacle
        body = self.body()
        if body is None:
            return "its body is not a JSON object"
        if body.get("background") is True:
            return "it runs in the background already (`background: true`)"
        return None


BY_TAG: Final = "header:x-deferrable"
BY_PREFER: Final = "header:prefer"
_BY_RULE: Final = "rule:"


def by_rule(name: str) -> str:
    """Return what a decision of the rule is `decided_by`."""
    return _BY_RULE + name


def deciding_rule(decided_by: str) -> str | None:
    """Return the name of the rule that decided, or nothing if none did."""
    return decided_by.removeprefix(_BY_RULE) if decided_by.startswith(_BY_RULE) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """Send the call at once and relay the answer."""

    decided_by: str
    """`header:x-deferrable`, `header:prefer`, `rule:<name>` or `default`."""

    reason: str
    shadow: "Decision | None" = None
    """What a rule in shadow mode would have decided instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defer:
    """Accept the call as a job."""

    answer: Answer
    decided_by: str
    reason: str
    deadline: timedelta | datetime | None = None
    """Latest useful time of the result, from now or absolute; nothing: the default."""

    hold: timedelta | None = None
    """With `Answer.JOB`: how long to hold the connection for the result first."""

    tags: tuple[tuple[str, str], ...] = ()
    lane: Lane | None = None
    """The lane that a rule prefers; the planner has the last word."""

    shadow: "Decision | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """Refuse the call with an error of our own."""

    status: int
    """400 to 499."""

    message: str
    decided_by: str
    shadow: "Decision | None" = None
    header: str | None = None
    """The field whose value is at fault, if one is."""


Decision = Forward | Defer | Reject

UNDECIDED: Final = Forward(decided_by="default", reason="nobody asked to defer it")


def beside(decision: Decision, shadow: Decision | None) -> Decision:
    """Return `decision` with what a rule in shadow mode would have decided instead."""
    return decision if shadow is None else replace(decision, shadow=shadow)
