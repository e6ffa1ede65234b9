"""What was bought, what it would have cost as ordinary calls, and what was lost.

A job is booked once, in the write that ends it. Answers that are of no use to their
job (it had ended, or was answered twice) are booked under a receipt of their own,
which is written once. Whatever happens, a provider's bill lies between what is known
and what is known together with the possible doubles.

A ledger is sums per day, not a list of jobs: its size does not grow with the traffic.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date, timedelta
from functools import lru_cache
from operator import add, attrgetter
from typing import Final, NamedTuple

from proxy.core.chunks import chunked
from proxy.core.ids import JobId, OwnerId
from proxy.core.job import Job, JobState
from proxy.core.lanes import BatchKey, Lane
from proxy.core.prices import Cost, Processing
from proxy.core.usage import Tokens

ROWS_PER_DAY: Final = 1_000
"""How many different rows a day may have; more than that is summed under `OTHERS`.

Models and tags are the caller's to choose, and must not fill the store.
"""

OTHERS: Final = "(others)"

TAGS_PER_JOB: Final = 8
"""How many of a job's tags are booked."""

RECEIPTS_KEPT: Final = timedelta(days=60)
"""Longer than a batch may stay unsettled, after which nothing of it is read again."""

_TEXT_MAX: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class LedgerKey:
    """What the sums of one row have in common."""

    day: date
    """In UTC, of the job's end."""

    lane: str = ""
    upstream: str = ""
    model: str = ""
    rule: str = ""
    """`header:x-deferrable`, `header:prefer`, or `rule:` and the rule's name."""

    owner: str = ""
    """The configured name, or the hash."""

    credential: str = ""
    tag: str = ""
    """`name=value`. Tags have rows of their own, in which all else but the day is empty:
    a job with two tags stands in two of them, so they must not be added up."""

    def others(self) -> "LedgerKey":
        """Return the row for what a day has no room for."""
        if self.tag:
            return LedgerKey(day=self.day, tag=OTHERS)
        return LedgerKey(
            day=self.day,
            lane=self.lane,
            **dict.fromkeys(("upstream", "model", "rule", "owner", "credential"), OTHERS),
        )


class Sums(NamedTuple):
    """What a row adds up; money in nano-dollars. New fields are added at the end."""

    jobs: int = 0
    """Jobs that ended."""

    expired: int = 0
    """Those of them that passed their deadline with nothing in flight."""

    answers: int = 0
    """Answers that were bought and reached their job."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    list_nano: int = 0
    """What these answers would have cost as ordinary calls."""

    paid_nano: int = 0
    cache_lost_nano: int = 0
    """The part of what was paid that cached tokens cost because a batch does not reduce their
    price."""

    escalated: int = 0
    """Answers that were bought at full price although a batch of them has a lower one."""

    escalated_nano: int = 0
    """What that price difference came to."""

    unpriced: int = 0
    """Answers, of use or not, whose tokens or price are not known. They are in no amount of money,
    and in no saving."""

    useless: int = 0
    """Answers that were bought and of no use: the job had ended, or had one already."""

    useless_nano: int = 0
    possible_doubles: int = 0
    """Attempts of which nobody can tell whether they were bought."""

    possible_nano: int = 0
    """What these cost at most, as far as is known: each as much as the answer that came in the end,
    at full price."""

    possible_unpriced: int = 0
    """Those of them without a known price: no answer came, or none with a price."""

    @property
    def saved_nano(self) -> int:
        """What all came to less than ordinary calls, after what was bought in vain."""
        return self.list_nano - self.paid_nano - self.useless_nano

    def price_of_doubles(self, dollars: Callable[[int], str]) -> str:
        """Return in words what the possible doubles cost at most, to go on a sentence with.

        An unknown price is said to be unknown; it must not look like nothing.
        """
        unknown = self.possible_unpriced
        if unknown == self.possible_doubles:
            return "for what is not known"
        most = f"for at most {dollars(self.possible_nano)}"
        return f"{most} ({unknown:,} of them: unknown)" if unknown else most

    def __add__(self, other: "Sums") -> "Sums":  # type: ignore[override] # they add up
        return Sums(*map(add, self, other))


class Booking(NamedTuple):
    """What is to be added to one row; or a row as it stands."""

    key: LedgerKey
    sums: Sums


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Bookings that are made once, however often they are asked for."""

    id: str
    """Names what was bought; the same after every crash."""

    job_id: JobId | None
    """Whose answer it was, if it was one's; the job itself may be gone."""

    bookings: tuple[Booking, ...]


def ending(job: Job, tokens: Tokens | None, *, batch: Cost | None) -> Sums:
    """Return what a job's end adds up to.

    `tokens` are those of its answer, `batch` what it would have cost in a batch, if it
    was made in another way; nothing where it is not known.
    """
    cost = job.outcome.cost if job.outcome is not None else None
    doubles = possible_doubles(job)
    if job.state is not JobState.COMPLETED:
        expired = int(job.state is JobState.EXPIRED)
        return Sums(jobs=1, expired=expired, possible_doubles=doubles, possible_unpriced=doubles)
    unpriced = int(cost is None)
    cost = cost or _NO_COST
    tokens = tokens or _NO_TOKENS
    dearer = cost.paid_nano - batch.paid_nano if batch is not None else 0
    # All at once, and in their order: this is done for every line of every batch.
    return Sums(
        jobs=1,
        answers=1,
        input_tokens=tokens.input,
        cached_tokens=tokens.cached,
        output_tokens=tokens.output,
        list_nano=cost.list_nano,
        paid_nano=cost.paid_nano,
        cache_lost_nano=cost.cache_lost_nano,
        escalated=int(dearer > 0),
        escalated_nano=max(0, dearer),
        unpriced=unpriced,
        possible_doubles=doubles,
        possible_nano=doubles * cost.list_nano,
        possible_unpriced=doubles * unpriced,
    )


_NO_COST: Final = Cost(0, 0)
_NO_TOKENS: Final = Tokens(0, 0)


def useless(cost: Cost | None) -> Sums:
    """Return what an answer adds up to that was bought and is of no use."""
    if cost is None:
        return Sums(useless=1, unpriced=1)
    return Sums(useless=1, useless_nano=cost.paid_nano)


def possible_doubles(job: Job) -> int:
    """Return how many attempts of an ended job may have been bought besides its answer."""
    # The others were counted when it was released.
    return job.possible_doubles + failed_unseen(job)


def failed_unseen(job: Job) -> bool:
    """Return whether a job failed by an attempt whose answer nobody has seen, if there was one."""
    unseen = job.outcome is not None and job.outcome.status_code is None
    return unseen and job.state is JobState.FAILED


def processing_of(lane: Lane, tier: str | None) -> Processing | None:
    """Return how an answer was made, by the lane that asked for it and what it says itself.

    Nothing for a tier that is neither ordinary nor reduced: its price is not known.
    """
    if lane is Lane.BATCH:
        return Processing.BATCH
    if tier is None:
        return Processing.FLEX if lane is Lane.FLEX else Processing.STANDARD
    if tier == "flex":
        return Processing.FLEX
    return Processing.STANDARD if tier in _ORDINARY else None


_ORDINARY: Final = frozenset({"auto", "default", "standard", "on_demand", "standard_only"})
"""What providers call the tier of ordinary calls."""


def batch_row(key: BatchKey, *, day: date) -> LedgerKey:
    """Return the row of what belongs to a batch and to no job that is known any more."""
    return LedgerKey(
        day=day,
        lane=key.lane.value,
        upstream=key.upstream,
        model=key.model[:_TEXT_MAX],
        credential=key.credential,
    )


def bookings(job: Job, sums: Sums, *, day: date, lane: Lane) -> tuple[Booking, ...]:
    """Return the bookings that add `sums` to their rows: what `job` came to in `lane`."""
    # A name that is longer than a row shows is not worth keeping.
    row = _row if len(job.key.model) <= _TEXT_MAX else _row.__wrapped__
    booking = Booking(row(day, lane, job.key, job.decided_by, job.owner), sums)
    if not job.tags:
        return (booking,)
    tags = sorted(job.tags.items())[:TAGS_PER_JOB]
    return booking, *(
        Booking(LedgerKey(day=day, tag=f"{name}={value}"[:_TEXT_MAX]), sums) for name, value in tags
    )


@lru_cache(maxsize=1024)
def _row(day: date, lane: Lane, key: BatchKey, rule: str, owner: OwnerId) -> LedgerKey:
    """Return one and the same key for the thousands of jobs that share it."""
    return replace(batch_row(key, day=day), lane=lane.value, rule=rule[:_TEXT_MAX], owner=owner)


def added(entries: Iterable[Booking]) -> dict[LedgerKey, Sums]:
    """Return one sum for each row: most jobs of a batch share theirs."""
    amounts: dict[LedgerKey, list[Sums]] = {}
    for entry in entries:
        amounts.setdefault(entry.key, []).append(entry.sums)
    return {key: _sum(rows) for key, rows in amounts.items()}


_AT_ONCE: Final = 1_000


def _sum(rows: Sequence[Sums]) -> Sums:
    # Column by column, which takes a third of adding row by row. Not all at once, since no other
    # thread gets its turn meanwhile.
    if len(rows) > _AT_ONCE:
        rows = [_sum(chunk) for chunk in chunked(rows, _AT_ONCE)]
    return Sums(*map(sum, zip(*rows, strict=True)))


BY: Final = ("upstream", "model", "rule", "tag", "owner", "credential", "lane", "day")
"""What a bill can be broken down by."""


def broken_down(rows: Iterable[Booking], by: Sequence[str]) -> Mapping[tuple[str, ...], Sums]:
    """Return the sums by the values of the given dimensions, the dearest first.

    Rows of tags count for breakdowns by tag, and only for these.
    """
    wants_tags = "tag" in by
    place_of = attrgetter(*by)
    amounts: dict[object, list[Sums]] = {}
    for row in rows:
        if bool(row.key.tag) is wants_tags:
            amounts.setdefault(place_of(row.key), []).append(row.sums)
    sums = {_texts(place): _sum(parts) for place, parts in amounts.items()}
    return dict(sorted(sums.items(), key=lambda one: (-one[1].list_nano, one[0])))


def _texts(place: object) -> tuple[str, ...]:
    return tuple(map(str, place)) if isinstance(place, tuple) else (str(place),)


def total(rows: Iterable[Booking]) -> Sums:
    """Return the sum of all rows."""
    return _sum([row.sums for row in rows if not row.key.tag] or [Sums()])


def encode_key(key: LedgerKey) -> Sequence[str]:
    """Return a row's key, less the day, as texts in a fixed order."""
    return [getattr(key, name) for name in _KEY_NAMES]


def decode_key(day: date, texts: Sequence[str]) -> LedgerKey:
    """Return the key that `encode_key` was given."""
    return LedgerKey(day=day, **dict(zip(_KEY_NAMES, texts, strict=True)))


_KEY_NAMES: Final = tuple(field.name for field in fields(LedgerKey) if field.name != "day")


def encode_sums(sums: Sums) -> str:
    """Return the amounts as text, in the order of the fields."""
    return " ".join(map(str, sums))


def decode_sums(text: str) -> Sums:
    """Return the sums that `encode_sums` was given.

    An older version wrote fewer; what a newer one adds is left out, since in a fleet two versions
    run side by side for a while.
    """
    return Sums(*map(int, text.split(" ")[: len(Sums._fields)]))
