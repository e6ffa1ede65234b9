"""The batches of one provider's API: how they begin and are stopped, who sees which, and when."""

from collections.abc import Callable
from typing import Any

from proxy.sandbox.engine import Engine, new_id
from proxy.sandbox.files import FileStore
from proxy.sandbox.openai import errors
from proxy.sandbox.openai.batch import Batch, batch_object
from proxy.sandbox.openai.batch_run import BatchRun
from proxy.sandbox.openai.habits import Habits
from proxy.sandbox.wire import ApiError, Call


class BatchRecords:
    """Runs batches, and shows them as far as lags, faults and keys allow.

    `unknown` makes the refusal of an ID that shows nothing.
    """

    def __init__(
        self,
        engine: Engine,
        store: FileStore,
        habits: Habits,
        unknown: Callable[[str], ApiError],
    ) -> None:
        self._engine = engine
        self._store = store
        self._habits = habits
        self._unknown = unknown
        self._batches: dict[str, Batch] = {}
        self._created = 0

    def begin(
        self, call: Call, *, prefix: str = "batch_", windows: float = 1, **more: Any
    ) -> Batch:
        """Return a new batch, which runs from the next turn of the event loop on.

        It expires after so many `windows` of the sandbox. `more` are other fields of a `Batch`.
        """
        now = self._engine.clock.now()
        batch = Batch(
            id=new_id(prefix),
            ordinal=self._created,
            project=call.key.project,
            key_id=call.key.key_id,
            created_at=now,
            expires_at=now + self._engine.settings.window_s * windows,
            **more,
        )
        self._batches[batch.id] = batch
        self._created += 1
        run = BatchRun(self._engine, self._store, batch, self._habits, enqueued=self._enqueued)
        self._engine.workers.spawn(run.run())
        return batch

    def stop(self, batch: Batch) -> None:
        """Begin to cancel a batch, if that has not begun."""
        if batch.cancel_at is None:
            batch.cancel_at = self._engine.clock.now()
            batch.enter("cancelling", batch.cancel_at)
            self._engine.clock.nudge()

    def remove(self, batch: Batch) -> None:
        """Forget a batch."""
        del self._batches[batch.id]

    def shown(self, batch: Batch) -> dict[str, Any]:
        """Return OpenAI's object for a batch, with what faults falsify in it."""
        return batch_object(batch, self._engine.faults.of_batch(batch.id, batch.fault_ids))

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

    def _enqueued(self, project: str, model: str) -> int:
        """Return the prompt tokens of a project's batches of that model under way."""
        return sum(
            batch.enqueued_tokens
            for batch in self._batches.values()
            if not batch.is_terminal and batch.project == project and batch.model == model
        )


def check_create(call: Call) -> None:
    """Refuse a create for the key's sake: its scope, or its quota where that shows here."""
    check_scope(call)
    if not call.key.in_quota and call.key.quota_surface == "call":
        raise errors.quota_exhausted()


def check_scope(call: Call) -> None:
    """Refuse a key without the scope for batches."""
    if not call.key.batch_scope:
        raise errors.no_batch_scope()
