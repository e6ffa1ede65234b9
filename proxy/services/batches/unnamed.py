"""What can be told of provider batches that carry no name.

Where a provider keeps neither metadata nor a name, an unclear create can only be
searched for by time and size. What is found like that is adopted provisionally:
it is polled and read, and never cancelled or deleted, until one of our names was
read from it. What remains uncertain, and is counted in `create_unnamed`:

- Another client of the same account may have created a batch of the very same
  size at the same moment. If ours does not exist, that one is adopted; its
  results tell, and until then our jobs have lost at most half of their slack
  (`anothers`, or `unconfirmed` if it did not end by then).
- If both exist, neither is adopted, the jobs are submitted again, and each of
  them is booked as a possible double (`several`). Once the older ones have
  ended, their names tell which was ours; then it is a known twin (`twin`).
- Clocks more than `SKEW` apart, or a list that lags behind for longer than both
  searches, hide our own batch (`absent`). The same later look finds it.
- Only one create of a credential is in doubt at a time, but other credentials may
  open the same workspace, and nothing shows which do.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog

from proxy.core.batch import Batch, BatchState
from proxy.core.batch_ends import ANOTHERS
from proxy.core.batch_events import Disowned
from proxy.core.ids import CredentialId, parse_custom_id
from proxy.ports.provider import ProviderBatch, ResultLine
from proxy.services.ground import Ground

log = structlog.get_logger()

SKEW: Final = timedelta(minutes=2)
"""How far the provider's clock may be from ours. The wider, the more strangers there are."""

LONGEST_CREATE: Final = timedelta(minutes=20)
"""How long after its beginning a create that carries all of its input may become a batch."""

_REMEMBERED: Final = 2_000
"""How many settled batches are looked through for those that are known: a day of many."""


async def candidates(
    ground: Ground, batch: Batch, found: Sequence[ProviderBatch], *, since: datetime, to: datetime
) -> list[ProviderBatch]:
    """Return which of `found` may be what a create of `batch` made between two times.

    They have its size, as far as that is told, and belong to no batch that we know.
    """
    ours = (*await ground.batches.live(), *await ground.batches.recent(limit=_REMEMBERED))
    known = {batch_id for one in ours for batch_id in (one.provider_batch_id, *one.twins)}
    return [
        one
        for one in found
        if one.id not in known
        and one.count in (None, batch.create_count)
        and since - SKEW <= one.created_at <= to + SKEW
    ]


async def is_one_in_doubt(ground: Ground, credential: CredentialId) -> bool:
    """Return whether a create of this credential may be on its way."""
    return any(
        batch.state is BatchState.SUBMITTING
        and batch.create_started_at is not None
        and batch.key.credential == credential
        for batch in await ground.batches.live()
    )


async def has_our_names(
    ground: Ground, batch: Batch, chunks: AsyncIterator[Sequence[ResultLine]]
) -> bool | None:
    """Return whether any of these lines is named as this very batch issued it.

    Nothing if none of them has a name, ours or another's: an answer that is empty or an
    error in the place of results tells nothing. Reads no further than to the first one
    that is ours, and changes nothing.
    """
    are_named = False
    try:
        async for lines in chunks:
            are_named = are_named or any(line.custom_id for line in lines)
            names = [
                name
                for line in lines
                if line.custom_id and (name := parse_custom_id(line.custom_id))
            ]
            if await ground.batches.issued(batch.id, names):
                return True
        return False if are_named else None
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


async def disown(ground: Ground, batch: Batch, reason: str) -> Batch:
    """Give the jobs of an adopted batch back: it is another's, or did not tell in time.

    `reason` is `ANOTHERS` or `UNCONFIRMED`.
    """
    log.warning("batch.disowned", batch_id=batch.id, provider_batch_id=batch.provider_batch_id)
    count_unnamed(ground, batch, "anothers" if reason == ANOTHERS else "unconfirmed")
    return await ground.write_batch(batch, Disowned(ground.now(), reason))


def count_unnamed(ground: Ground, batch: Batch, outcome: str) -> None:
    """Count how an unclear create without a name came out."""
    ground.tally.count("create_unnamed", upstream=batch.key.upstream, outcome=outcome)
