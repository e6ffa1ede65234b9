"""A batch: its record, as Gemini shows it, and its life.

    PENDING ─► RUNNING ─► SUCCEEDED
                  └─────► FAILED, CANCELLED, EXPIRED

A batch that did not succeed has no results, whatever was executed of it. Of an expired one that
is documented; of a cancelled one nothing is, and this is the worst that can be.

Sources: google-genai SDK 3.6, `batches`; Gemini API, "Batch API".
"""

from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import pydantic_core

from proxy.sandbox.engine import Engine, new_id
from proxy.sandbox.faults import LineFault
from proxy.sandbox.files import FileStore, StoredFile
from proxy.sandbox.gemini import errors
from proxy.sandbox.gemini.content import execute, find_model
from proxy.sandbox.gemini.fields import camel, moment
from proxy.sandbox.gemini.files import FILE_LIFE_S
from proxy.sandbox.gemini.intake import Rows
from proxy.sandbox.lines import spoiled
from proxy.sandbox.schedule import Schedule, StoppedError
from proxy.sandbox.wire import ApiError

_TYPE: Final = "type.googleapis.com/google.ai.generativelanguage.v1main"
_OUTPUTS: Final = {
    "generateContent": ("GenerateContentBatch", "inlinedResponses"),
    "embedContent": ("EmbedContentBatch", "inlinedEmbedContentResponses"),
}
_CANCELLED: Final = {"code": 13, "message": "The batch was cancelled."}
_EXPIRED: Final = {"code": 4, "message": "The batch expired before it was finished."}


@dataclass(slots=True)
class Batch:
    """One batch. Only its `BatchRun` changes it, but for `cancel_at`."""

    id: str
    """Its name as a resource, `batches/…`."""
    project: str
    key_id: str
    model: str
    method: str
    display_name: str
    rows: Rows
    results: Path
    input_config: dict[str, Any]
    created_at: float
    expires_at: float
    fault_ids: tuple[str, ...] = ()
    state: str = "PENDING"
    started_at: float = 0.0
    cancel_at: float | None = None
    ended_at: float | None = None
    successful: int = 0
    failed: int = 0
    error: dict[str, Any] | None = None
    output_file: StoredFile | None = None

    @property
    def total(self) -> int:
        """How many requests it has."""
        return len(self.rows)

    def shown(self) -> dict[str, Any]:
        """Return the Operation of the API."""
        kind, _ = _OUTPUTS[self.method]
        ended = {} if self.ended_at is None else {"endTime": moment(self.ended_at)}
        output = self._output()
        metadata = {
            "@type": f"{_TYPE}.{kind}",
            "name": self.id,
            "model": f"models/{self.model}",
            "displayName": self.display_name,
            "state": f"BATCH_STATE_{self.state}",
            "createTime": moment(self.created_at),
            "updateTime": moment(self.ended_at or self.started_at or self.created_at),
            **ended,
            "inputConfig": self.input_config,
            "batchStats": self._stats(),
            **({"output": output} if output else {}),
        }
        shown: dict[str, Any] = {"name": self.id, "metadata": metadata}
        if self.ended_at is not None:
            shown["done"] = True
        if self.error is not None:
            shown["error"] = self.error
        elif output:
            shown["response"] = {"@type": f"{_TYPE}.{kind}Output", **output}
        return shown

    def _stats(self) -> dict[str, str]:
        """Return the counts, as text and without those of nothing: they are int64."""
        pending = 0 if self.ended_at is not None else self.total - self.successful - self.failed
        counts = {
            "requestCount": self.total,
            "successfulRequestCount": self.successful,
            "failedRequestCount": self.failed,
            "pendingRequestCount": pending,
        }
        return {name: str(count) for name, count in counts.items() if count}

    def _output(self) -> dict[str, Any]:
        if self.state != "SUCCEEDED":
            return {}
        if self.output_file is not None:
            return {"responsesFile": f"files/{self.output_file.id}"}
        lines = self.results.read_bytes().splitlines()
        inlined = [pydantic_core.from_json(line) for line in lines]
        _, name = _OUTPUTS[self.method]
        return {name: {"inlinedResponses": inlined}}


class BatchRun:
    """Drives one batch; `run` is its whole life."""

    def __init__(self, engine: Engine, store: FileStore, batch: Batch) -> None:
        self._engine = engine
        self._store = store
        self._batch = batch
        self._schedule = Schedule(engine, batch)

    async def run(self) -> None:
        """Live through the batch; returns once it has ended."""
        batch = self._batch
        try:
            due = batch.created_at + self._engine.settings.validation_s
            batch.started_at = await self._schedule.reach(due, "validating")
            batch.state = "RUNNING"
            self._fail_if_told()
            with batch.results.open("wb") as file:
                rows = batch.rows.read()
                await self._schedule.run_lines(lambda: self._run(file, *next(rows)))
            due = self._schedule.line_due(batch.total)
            ended = await self._schedule.reach(due, "in_progress")
            self._end("SUCCEEDED", ended, None)
        except StoppedError as stopped:
            ended = await self._schedule.wound_up(stopped)
            is_cancelled = stopped.status == "cancelled"
            error = _CANCELLED if is_cancelled else _EXPIRED
            self._end("CANCELLED" if is_cancelled else "EXPIRED", ended, error)
        except ApiError as exc:
            self._end("FAILED", self._engine.clock.now(), errors.rpc_status(exc))

    def _end(self, state: str, at: float, error: dict[str, Any] | None) -> None:
        batch = self._batch
        if state == "SUCCEEDED" and not batch.rows.is_inline:
            batch.output_file = StoredFile(
                id=new_id("batch-"),
                project=batch.project,
                filename=f"{batch.display_name}-output",
                purpose="application/jsonl",
                path=batch.results,
                size=batch.results.stat().st_size,
                created_at=at,
                visible_at=at,
                expires_at=at + FILE_LIFE_S,
            )
            self._store.add(batch.output_file)
        batch.state, batch.ended_at, batch.error = state, at, error

    def _fail_if_told(self) -> None:
        for fault in self._schedule.faults():
            if fault.fail_code is not None:
                raise ApiError(_status_of(fault.fail_code), fault.fail_message)
        key = self._engine.keys.current(self._batch.key_id, self._batch.project)
        if not key.in_quota and key.quota_surface == "batch":
            raise errors.billing_disabled()

    def _run(self, file: IO[bytes], name: dict[str, Any], request: dict[str, Any]) -> None:
        batch = self._batch
        key = str(name.get("key") or (name.get("metadata") or {}).get("key") or "")
        fault = self._engine.faults.for_line(custom_id=key, key_id=batch.key_id, model=batch.model)
        try:
            self._refuse_if_told(fault)
            result = {"response": self._answer(camel(request), key)}
            batch.successful += 1
        except ApiError as exc:
            result, fault = {"error": errors.rpc_status(exc)}, None
            batch.failed += 1
        for line in self._spoiled(name, result, fault):
            file.write(line + b"\n")

    def _spoiled(
        self, name: dict[str, Any], result: dict[str, Any], fault: LineFault | None
    ) -> list[bytes]:
        if not self._batch.rows.is_inline:
            return spoiled(pydantic_core.to_json(name | result), fault, name=("key",))
        if fault is not None and fault.outcome == "unparsable":
            # Half a line would be half a JSON document here.
            result, fault = {}, None
        return spoiled(pydantic_core.to_json(name | result), fault, name=("metadata", "key"))

    def _refuse_if_told(self, fault: LineFault | None) -> None:
        key = self._engine.keys.current(self._batch.key_id, self._batch.project)
        if not key.in_quota and key.quota_surface == "line":
            raise errors.billing_disabled()
        if fault is not None and fault.outcome == "status":
            raise ApiError(fault.status, fault.message, code=fault.code)

    def _answer(self, request: dict[str, Any], key: str) -> dict[str, Any]:
        batch, engine = self._batch, self._engine
        model = find_model(batch.model, batch.method, engine.settings)
        execution = execute(batch.method, request, model)
        engine.bill(
            execution,
            key_id=batch.key_id,
            endpoint=batch.method,
            lane="batch",
            custom_id=key,
            batch_id=batch.id,
        )
        return execution.body


def _status_of(code: str) -> int:
    """Return the HTTP status that comes with a name of `google.rpc.Code`."""
    return next((status for status, (_, name) in errors.CODES.items() if name == code), 500)
