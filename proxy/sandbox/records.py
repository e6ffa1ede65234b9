"""The batches of one provider's API, whatever its dialect: who sees which, and when."""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from proxy.sandbox.engine import Engine
from proxy.sandbox.faults import BatchFault
from proxy.sandbox.wire import ApiError, Call


class AnyBatch(Protocol):
    """What the batches of all dialects have."""

    id: str
    project: str
    created_at: float
    fault_ids: tuple[str, ...]


B = TypeVar("B", bound=AnyBatch)


class Records(Generic[B]):
    """Keeps batches, and shows them as far as lags, faults and keys allow.

    `unknown` makes the refusal of an ID that shows nothing. `prefix` begins the IDs, and
    is no part of the segment of a path.
    """

    def __init__(
        self, engine: Engine, unknown: Callable[[str], ApiError], *, prefix: str = ""
    ) -> None:
        self._engine = engine
        self._unknown = unknown
        self._prefix = prefix
        self._batches: dict[str, B] = {}
        self.created = 0
        """How many there have been."""

    def add(self, batch: B) -> None:
        """Keep a new batch."""
        self._batches[batch.id] = batch
        self.created += 1

    def remove(self, batch: B) -> None:
        """Forget a batch."""
        del self._batches[batch.id]

    def all(self) -> list[B]:
        """Return every batch, oldest first, whosever it is."""
        return list(self._batches.values())

    def listed(self, call: Call) -> list[B]:
        """Return what a key may see in a list by now, oldest first."""
        seen_before = self._engine.clock.now() - self._engine.settings.batch_list_lag_s
        return [
            batch
            for batch in self._batches.values()
            if batch.project == call.key.project
            and batch.created_at <= seen_before
            and self.vanished(batch) is None
        ]

    def find(self, call: Call, *, shows_vanished: bool = False) -> B:
        """Return the batch that a path names; `shows_vanished` leaves the refusal to the caller."""
        # A client may write the slash of the prefix as a part of the segment.
        batch_id = self._prefix + call.part("id").removeprefix(self._prefix)
        batch = self._batches.get(batch_id)
        seen_before = self._engine.clock.now() - self._engine.settings.batch_get_lag_s
        if batch is None or batch.project != call.key.project or batch.created_at > seen_before:
            raise self._unknown(batch_id)
        vanished = self.vanished(batch)
        if vanished == "not_found" or (vanished is not None and not shows_vanished):
            raise self._unknown(batch_id)
        return batch

    def faults(self, batch: B) -> list[BatchFault]:
        """Return the faults that hold for a batch now."""
        return list(self._engine.faults.of_batch(batch.id, batch.fault_ids))

    def vanished(self, batch: B) -> str | None:
        """Return in which way a fault hides a batch, if one does."""
        return next((fault.vanish for fault in self.faults(batch) if fault.vanish), None)
