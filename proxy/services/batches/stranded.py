"""Batches of upstreams that are not configured here."""

from collections.abc import Callable, Iterable
from typing import Final

import structlog

from proxy.core.batch import Batch
from proxy.core.ids import BatchId

log = structlog.get_logger()

HINT: Final = (
    "no upstream of that name with a batch API is configured here: unless another instance has"
    " it, nobody reads what was bought; configure it again, until its batches are settled"
)


class StrandedBatches:
    """Leaves them to instances that know their upstream, and tells of each once."""

    def __init__(self, is_known: Callable[[str], bool]) -> None:
        """`is_known` tells whether an upstream has a batch API here."""
        self._is_known = is_known
        self._told: frozenset[BatchId] = frozenset()

    def without(self, due: Iterable[Batch]) -> list[Batch]:
        """Return those of known upstreams; `due` are all that something is to be done for."""
        known: list[Batch] = []
        strange: dict[BatchId, str] = {}
        for batch in due:
            if self._is_known(batch.key.upstream):
                known.append(batch)
            else:
                strange[batch.id] = batch.key.upstream
        for batch_id in strange.keys() - self._told:
            log.error("batch.stranded", batch_id=batch_id, upstream=strange[batch_id], hint=HINT)
        self._told = frozenset(strange)
        return known
