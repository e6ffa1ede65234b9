"""A batch as a record, and as OpenAI shows it.

    validating ─► failed
        └► in_progress ─► finalizing ─► completed
                 ├► expired
                 └► cancelling ─► cancelled

Source: OpenAI API description, `Batch` (openapi.yaml, 2026-08-21), and the Batch guide.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from proxy.sandbox.faults import BatchFault

TERMINAL: Final = frozenset({"completed", "failed", "expired", "cancelled"})


@dataclass(slots=True)
class Batch:
    """One batch. Only its `BatchRun` changes it, but for `cancel_at`, which a caller sets."""

    id: str
    ordinal: int
    project: str
    key_id: str
    endpoint: str
    input_file_id: str
    created_at: float
    expires_at: float
    metadata: dict[str, str] | None = None
    output_life_s: int | None = None
    window: str = "24h"
    status: str = "validating"
    model: str | None = None
    errors: list[dict[str, Any]] | None = None
    at: dict[str, float] = field(default_factory=dict)
    """When each status but the first was entered."""
    cancel_at: float | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    enqueued_tokens: int = 0
    """Counted against the model's limit while the batch is not terminal."""
    fault_ids: tuple[str, ...] = ()

    @property
    def is_terminal(self) -> bool:
        """Whether the status never changes again."""
        return self.status in TERMINAL

    @property
    def started_at(self) -> float:
        """When its lines began to run."""
        return self.at["in_progress"]

    def enter(self, status: str, at: float) -> None:
        """Move to a status at that time."""
        self.status = status
        self.at[status] = at


def batch_object(batch: Batch, faults: Iterable[BatchFault]) -> dict[str, Any]:
    """Return the Batch object of the API, with what the faults falsify in it."""
    shown: dict[str, Any] = {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": None if batch.errors is None else {"object": "list", "data": batch.errors},
        "input_file_id": batch.input_file_id,
        "completion_window": batch.window,
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": int(batch.created_at),
        "expires_at": int(batch.expires_at),
    }
    for status in (
        "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"
    ):  # fmt: skip
        at = batch.at.get(status)
        shown[f"{status}_at"] = None if at is None else int(at)
    shown["request_counts"] = {
        "total": batch.total,
        "completed": batch.completed,
        "failed": batch.failed,
    }
    shown["usage"] = _usage(batch) if batch.is_terminal and batch.total else None
    shown["metadata"] = batch.metadata
    for fault in faults:
        _falsify(shown, fault, is_terminal=batch.is_terminal)
    return shown


def _usage(batch: Batch) -> dict[str, Any]:
    return {
        "input_tokens": batch.input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": batch.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": batch.input_tokens + batch.output_tokens,
    }


def _falsify(shown: dict[str, Any], fault: BatchFault, *, is_terminal: bool) -> None:
    if fault.shown_status is not None:
        shown["status"] = fault.shown_status
    if fault.file_ids is not None and is_terminal:
        for name in ("output_file_id", "error_file_id"):
            if fault.file_ids == "empty_all" or shown[name] is None:
                shown[name] = ""
