"""A message batch: its record, as Anthropic shows it, and its life.

    in_progress ─► (canceling ─►) ended

There is no failed and no expired batch: what became of each request is told by its line alone,
and the counts say nothing before the end.

Source: types of the Anthropic SDK 2.12, `MessageBatch`, and the Batch processing guide.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import pydantic_core

from proxy.sandbox.anthropic import errors
from proxy.sandbox.anthropic.fields import moment
from proxy.sandbox.anthropic.intake import Requests
from proxy.sandbox.anthropic.messages import answer
from proxy.sandbox.engine import Engine, new_id
from proxy.sandbox.faults import LineFault
from proxy.sandbox.lines import Pause, shuffled, spoiled
from proxy.sandbox.schedule import Schedule, StoppedError
from proxy.sandbox.wire import ApiError

RESULTS_LIFE_S: Final = 29 * 86_400.0
"""Results are there for 29 days from the creation of their batch."""

_OUTCOMES: Final = ("succeeded", "errored", "canceled", "expired")
_GIVEN_UP: Final = {"cancelled": "canceled", "expired": "expired"}


@dataclass(slots=True)
class MessageBatch:
    """One batch. Only its `MessageBatchRun` changes it, but for `cancel_at`."""

    id: str
    ordinal: int
    project: str
    key_id: str
    requests: Requests
    results: Path
    created_at: float
    expires_at: float
    fault_ids: tuple[str, ...] = ()
    cancel_at: float | None = None
    ended_at: float | None = None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_OUTCOMES, 0))

    @property
    def total(self) -> int:
        """How many requests it has."""
        return len(self.requests)

    @property
    def started_at(self) -> float:
        """When its requests began to run: at once."""
        return self.created_at

    def has_results(self, now: float) -> bool:
        """Whether its results can be read."""
        return self.ended_at is not None and now < self.created_at + RESULTS_LIFE_S

    def shown(self, base_url: str, now: float) -> dict[str, Any]:
        """Return the MessageBatch object of the API."""
        has_ended = self.ended_at is not None
        running = "in_progress" if self.cancel_at is None else "canceling"
        counts = self.counts if has_ended else dict.fromkeys(_OUTCOMES, 0)
        archived = self.created_at + RESULTS_LIFE_S
        url = f"{base_url}/v1/messages/batches/{self.id}/results"
        return {
            "id": self.id,
            "type": "message_batch",
            "processing_status": "ended" if has_ended else running,
            "request_counts": {"processing": 0 if has_ended else self.total, **counts},
            "created_at": moment(self.created_at),
            "expires_at": moment(self.expires_at),
            "ended_at": moment(self.ended_at),
            "cancel_initiated_at": moment(self.cancel_at),
            "archived_at": moment(archived) if now >= archived else None,
            "results_url": url if self.has_results(now) else None,
        }


class MessageBatchRun:
    """Drives one batch; `run` is its whole life."""

    def __init__(self, engine: Engine, batch: MessageBatch) -> None:
        self._engine = engine
        self._batch = batch
        self._schedule = Schedule(engine, batch)

    async def run(self) -> None:
        """Live through the batch; returns once it has ended."""
        batch, seed = self._batch, self._engine.settings.shuffle_seed
        order = shuffled(batch.total, seed=seed, ordinal=batch.ordinal)
        with batch.results.open("wb") as file:
            requests = batch.requests.read(order)
            try:
                await self._schedule.run_lines(lambda: self._run(file, *next(requests)))
                due = self._schedule.line_due(batch.total)
                ended = await self._schedule.reach(due, "in_progress")
            except StoppedError as stopped:
                ended = await self._schedule.wound_up(stopped)
                pause = Pause()
                for custom_id, _ in requests:
                    self._write(file, custom_id, _GIVEN_UP[stopped.status])
                    await pause.breathe()
        batch.ended_at = ended

    def _run(self, file: IO[bytes], custom_id: str, params: Any) -> None:
        batch = self._batch
        model = params.get("model") if isinstance(params, dict) else None
        fault = self._engine.faults.for_line(
            custom_id=custom_id,
            key_id=batch.key_id,
            model=model if isinstance(model, str) else None,
        )
        try:
            self._refuse_if_told(fault)
            message = self._answer(params, custom_id)
        except ApiError as exc:
            error = errors.error_body(exc, new_id("req_"))
            self._write(file, custom_id, "errored", error=error)
        else:
            self._write(file, custom_id, "succeeded", fault, message=message)

    def _refuse_if_told(self, fault: LineFault | None) -> None:
        key = self._engine.keys.current(self._batch.key_id, self._batch.project)
        # There is no failed batch, so what shows on a whole batch elsewhere is on each line here.
        if not key.in_quota and key.quota_surface in ("line", "batch"):
            raise errors.credit_exhausted()
        if fault is not None and fault.outcome == "status":
            kind = fault.error_type or errors.type_of(fault.status)
            raise ApiError(fault.status, fault.message, error_type=kind)

    def _answer(self, params: Any, custom_id: str) -> dict[str, Any]:
        if not isinstance(params, dict):
            raise errors.invalid("params: Input should be an object")
        execution = answer(params, self._engine.settings, in_batch=True)
        self._engine.bill(
            execution,
            key_id=self._batch.key_id,
            endpoint="/v1/messages",
            lane="batch",
            custom_id=custom_id,
            batch_id=self._batch.id,
        )
        return execution.body

    def _write(
        self,
        file: IO[bytes],
        custom_id: str,
        outcome: str,
        fault: LineFault | None = None,
        **payload: dict[str, Any],
    ) -> None:
        self._batch.counts[outcome] += 1
        line = {"custom_id": custom_id, "result": {"type": outcome, **payload}}
        for written in spoiled(pydantic_core.to_json(line), fault):
            file.write(written + b"\n")
