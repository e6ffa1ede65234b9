"""The batches of one provider's API: who sees which, and when."""

from collections.abc import Callable

from proxy.sandbox.engine import Engine
from proxy.sandbox.openai import errors
from proxy.sandbox.openai.batch import Batch
from proxy.sandbox.wire import ApiError, Call


class BatchRecords:
    """Keeps batches, and shows them as far as lags, faults and keys allow.

    `unknown` makes the refusal of an ID that shows nothing.
    """

    def __init__(self, engine: Engine, unknown: Callable[[str], ApiError]) -> None:
        self._engine = engine
        self._unknown = unknown
        self._batches: dict[str, Batch] = {}
        self.created = 0

    def add(self, batch: Batch) -> None:
        """Keep a new batch."""
        self._batches[batch.id] = batch
        self.created += 1

    def remove(self, batch: Batch) -> None:
        """Forget a batch."""
        del self._batches[batch.id]

    def all(self) -> list[Batch]:
        """Return every batch, oldest first, whosever it is."""
        return list(self._batches.values())

    def listed(self, call: Call) -> list[Batch]:
        """Return what a key may see in a list by now, oldest first."""
        seen_before = self._engine.clock.now() - self._engine.settings.batch_list_lag_s
        return [
            batch
            for batch in self._batches.values()
            if batch.project == call.key.project
            and batch.created_at <= seen_before
            and self.vanished(batch) is None
        ]

    def find(self, call: Call, *, shows_vanished: bool = False) -> Batch:
        """Return the batch that a path names; `shows_vanished` leaves the refusal to the caller."""
        batch = self._batches.get(call.part("id"))
        seen_before = self._engine.clock.now() - self._engine.settings.batch_get_lag_s
        if batch is None or batch.project != call.key.project or batch.created_at > seen_before:
            raise self._unknown(call.part("id"))
        vanished = self.vanished(batch)
        if vanished == "not_found" or (vanished is not None and not shows_vanished):
            raise self._unknown(batch.id)
        return batch

    def vanished(self, batch: Batch) -> str | None:
        """Return in which way a fault hides a batch, if one does."""
        faults = self._engine.faults.of_batch(batch.id, batch.fault_ids)
        return next((fault.vanish for fault in faults if fault.vanish), None)


def check_create(call: Call) -> None:
    """Refuse a create for the key's sake: its scope, or its quota where that shows here."""
    check_scope(call)
    if not call.key.in_quota and call.key.quota_surface == "call":
        raise errors.quota_exhausted()


def check_scope(call: Call) -> None:
    """Refuse a key without the scope for batches."""
    if not call.key.batch_scope:
        raise errors.no_batch_scope()
