"""The batches of providers that speak like OpenAI: how they begin, run and are stopped."""

from collections.abc import Callable
from typing import Any

from proxy.sandbox.engine import Engine, new_id
from proxy.sandbox.files import FileStore
from proxy.sandbox.openai import errors
from proxy.sandbox.openai.batch import Batch, batch_object
from proxy.sandbox.openai.batch_run import BatchRun
from proxy.sandbox.openai.habits import Habits
from proxy.sandbox.records import Records
from proxy.sandbox.wire import ApiError, Call


class BatchRecords(Records[Batch]):
    """Runs batches besides, and shows them as OpenAI does."""

    def __init__(
        self,
        engine: Engine,
        store: FileStore,
        habits: Habits,
        unknown: Callable[[str], ApiError],
        *,
        prefix: str = "",
    ) -> None:
        super().__init__(engine, unknown, prefix=prefix)
        self._store = store
        self._habits = habits

    def begin(
        self, call: Call, *, prefix: str = "batch_", windows: float = 1, **more: Any
    ) -> Batch:
        """Return a new batch, which runs from the next turn of the event loop on.

        It expires after so many `windows` of the sandbox. `more` are other fields of a `Batch`.
        """
        now = self._engine.clock.now()
        batch = Batch(
            id=new_id(prefix),
            ordinal=self.created,
            project=call.key.project,
            key_id=call.key.key_id,
            created_at=now,
            expires_at=now + self._engine.settings.window_s * windows,
            **more,
        )
        self.add(batch)
        run = BatchRun(self._engine, self._store, batch, self._habits, enqueued=self._enqueued)
        self._engine.workers.spawn(run.run())
        return batch

    def stop(self, batch: Batch) -> None:
        """Begin to cancel a batch, if that has not begun."""
        if batch.cancel_at is None:
            batch.cancel_at = self._engine.clock.now()
            batch.enter("cancelling", batch.cancel_at)
            self._engine.clock.nudge()

    def shown(self, batch: Batch) -> dict[str, Any]:
        """Return OpenAI's object for a batch, with what faults falsify in it."""
        return batch_object(batch, self.faults(batch))

    def _enqueued(self, project: str, model: str) -> int:
        """Return the prompt tokens of a project's batches of that model under way."""
        return sum(
            batch.enqueued_tokens
            for batch in self.all()
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
