"""How to go on when a provider refuses a whole batch because of one of its lines.

A line that the refusal names is taken out of the next batch. Where none is named, or too
many were, the next batches are parts of the refused one, until few neighbours are left to
share the fate of the bad line.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

from proxy.core.batch import Batch
from proxy.core.batch_ends import OF_SOME_LINE, is_unexplained
from proxy.core.lanes import BatchKey

LOOKED_THROUGH: Final = 100
"""How many of the most recent batches are looked through for such refusals."""

PARTS: Final = 16
"""Into how many parts a batch is cut that was refused for an unnamed line.

A job leaves the batch lane after three refusals: the bad line of 50,000 takes along some
two hundred others, all the rest is bought in batches, and 16 is below `max_open`.
"""

LEAST_PART: Final = 10
"""The smallest part, in jobs, where the refusal may not be for a line at all: each part costs a
create, and smaller batches are not worth one."""

CUT_FOR: Final = timedelta(minutes=10)
"""How long after such a refusal batches stay small: its jobs are in batches again by then."""

ISOLATED_MOST: Final = 8
"""How many bad lines in turn are taken out of the batches of a key, one by one.

Validation stops at the first. Where more are bad, mostly all are bad alike, and each would cost an
upload of all the others.
"""

ISOLATED_FOR: Final = timedelta(hours=2)
"""How long such refusals are counted together: validation takes minutes."""


def cut_sizes(recent: Iterable[Batch], *, now: datetime) -> Mapping[BatchKey, int]:
    """Return the most jobs that batches of a key may hold, where one was refused as a whole."""
    sizes: dict[BatchKey, int] = {}
    for batch in recent:
        if is_unexplained(batch) and _ended_within(CUT_FOR, batch, now):
            least = 1 if batch.error_code in OF_SOME_LINE else LEAST_PART
            size = max(batch.count // PARTS, least)
            sizes[batch.key] = min(size, sizes.get(batch.key, size))
    return sizes


def are_too_many_to_name(recent: Iterable[Batch], key: BatchKey, *, now: datetime) -> bool:
    """Return whether so many batches of a key were refused for a line that no more are named.

    What is refused then counts as refused for an unnamed line, and is cut into parts.
    """
    named = [
        batch
        for batch in recent
        if batch.key == key
        and batch.error_line is not None
        and _ended_within(ISOLATED_FOR, batch, now)
    ]
    return len(named) >= ISOLATED_MOST


def _ended_within(span: timedelta, batch: Batch, now: datetime) -> bool:
    return batch.ended_at is not None and now - batch.ended_at <= span
