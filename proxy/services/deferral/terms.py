"""What is known of calls that are deferred, before any of them is a job."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from policies.fields import Run
from policies.headers import Asked
from proxy.core.choice import LaneFacts
from proxy.core.dialects import Dialect, Endpoint, pick_headers
from proxy.core.fields import RawHeaders
from proxy.core.job import AnswerMode
from proxy.core.lanes import BatchKey, Lane, LaneChoice
from proxy.core.repeats import Digest, begun_fingerprint
from proxy.services.callers.owners import Caller
from proxy.services.deferral.admission import Admitted

DIRECT_HEADERS: Final = ("openai-beta",)
"""Headers that change an answer and belong to no batch as a whole.

A closed list: any other could hold a credential, and these are stored in clear.
"""


class Chosen(NamedTuple):
    """The lane of a job, and by what it was chosen."""

    choice: LaneChoice
    key: BatchKey
    """The key of the queue in which it waits."""

    facts: LaneFacts | None
    """Nothing if there was no choice."""


class LastChoice(NamedTuple):
    """A choice that holds for jobs that are alike, for a moment."""

    alike: tuple[object, ...]
    """What it was made by, but for the time."""

    until: float
    """By the monotonic clock."""

    chosen: Chosen


@dataclass(slots=True, kw_only=True)
class Terms:
    """What calls share that have the same head and the same decision."""

    caller: Caller
    dialect: Dialect
    endpoint: Endpoint
    target: str
    """Raw target at the upstream, less credentials."""

    headers: RawHeaders
    """The call's own; those that `kept_headers` returns are enough."""

    answer: AnswerMode
    decided_by: str
    deadline: timedelta | datetime | None = None
    lane: Lane | None = None
    """The lane that a rule prefers; it is taken if it is sure to make the deadline."""

    alone: bool = False
    """Whether its run makes one call at a time."""

    tags: Mapping[str, str] = field(default_factory=dict)
    webhook: str | None = None
    run: Run | None = None
    idempotency_key: str | None = None
    retry_count: int = 0
    last: LastChoice | None = field(default=None, init=False, repr=False, compare=False)
    """What was chosen for the last of them: kept by the acceptor."""

    direct_headers: Mapping[str, str] = field(init=False)
    """What a direct call of one carries beyond the credential."""

    def __post_init__(self) -> None:
        self.direct_headers = dict(pick_headers(DIRECT_HEADERS, self.headers))


class DeferredCall(NamedTuple):
    """A call that was decided to be deferred."""

    terms: Terms
    admitted: Admitted
    fingerprint: str
    unnamed: str | None = None
    """The same without the name that its caller gave it, if it did."""

    retagged: Callable[[], str | None] = lambda: None
    """Returns, if its caller gave it a name, the fingerprint that it would have with its tag added
    or taken away: by its name it is one call, whoever wanted it deferred."""

    @property
    def content(self) -> str:
        """What it asks for, under whatever name: by it a run tells its calls apart.

        Earlier versions knew no other fingerprint, and their jobs are to be found again.
        """
        return self.fingerprint if self.unnamed is None else self.unnamed


def kept_headers(dialect: Dialect, headers: RawHeaders) -> RawHeaders:
    """Return those header fields that tell calls apart or go with their jobs."""
    names = {name.encode() for name in _kept_names(dialect)}
    return tuple([field for field in headers if field[0].lower() in names])


def fingerprint_of(
    caller: Caller,
    dialect: Dialect,
    *,
    target: str,
    headers: RawHeaders,
    asked: Asked | None = None,
    tagged: bool | None = None,
) -> Digest:
    """Return what a call and its repeats share, less the body: see `core.repeats.with_body`.

    `target` comes without credentials. Without what is `asked`, it is what equal calls share,
    whatever their names are and whoever wanted them deferred. `tagged` says whether the caller
    did, if it is not to be as asked.
    """
    names: tuple[tuple[str, str], ...] = ()
    if asked is not None:
        names = (*_named(asked), *_mark(asked.defers if tagged is None else tagged))
    return begun_fingerprint(
        owner=caller.owner,
        upstream=caller.credential.upstream,
        target=target,
        headers=(*pick_headers(_kept_names(dialect), headers), *names),
    )


def is_named(asked: Asked) -> bool:
    """Return whether the caller itself gave its call a name."""
    return bool(_named(asked))


def _named(asked: Asked) -> tuple[tuple[str, str], ...]:
    """Return the name that the caller itself gave its call, if it did.

    Equal calls of two names are no repeats of each other: one that claimed the other's job
    would leave nothing to the name that the job was made under. A key goes before a run, as
    when the job is made.
    """
    if asked.idempotency_key is not None:
        return (("idempotency-key", asked.idempotency_key),)
    return () if asked.run is None else (("x-deferrable-run", asked.run.id),)


def _mark(tagged: bool) -> tuple[tuple[str, str], ...]:
    """Return the mark of a call that only a rule can defer.

    A repeat has the head of the first call, tag and all. A plain call that claimed the job of a
    tagged one would be held, or answered with a job object instead of its answer.
    """
    return () if tagged else (("x-deferrable", ""),)


def _kept_names(dialect: Dialect) -> tuple[str, ...]:
    return (*dialect.billing_headers, *dialect.batch_headers, *DIRECT_HEADERS)
