"""`/v1/batch/jobs` as Mistral offers it.

A job takes its requests inline or as files, knows its lines without method and URL, and
ends in words of its own; what runs below is a batch like everybody's.

Source: Mistral API description, `BatchJobIn`, `BatchJobOut`.
"""

from collections.abc import AsyncGenerator, Iterator
from datetime import datetime
from typing import Any, Final

import pydantic_core

from proxy.sandbox.engine import Engine
from proxy.sandbox.files import FileStore, StoredFile
from proxy.sandbox.openai import errors
from proxy.sandbox.openai.batch import Batch
from proxy.sandbox.openai.batch_records import BatchRecords, check_create, check_scope
from proxy.sandbox.openai.execute import MISTRAL_ENDPOINTS
from proxy.sandbox.openai.habits import Habits
from proxy.sandbox.openai.live import json_object
from proxy.sandbox.own_lines import openai_line, result_items, stored_input
from proxy.sandbox.wire import ApiError, Call, Reply, Route, json_reply

_ENDPOINTS: Final = frozenset(
    {"/v1/chat/completions", "/v1/embeddings", "/v1/moderations", *MISTRAL_ENDPOINTS}
)
_INLINE_MAX: Final = 10_000
_HOURS_MAX: Final = 7 * 24
_METADATA_KEY_MAX: Final = 32
_METADATA_VALUE_MAX: Final = 512

_WORDS: Final = {
    "validating": "QUEUED",
    "in_progress": "RUNNING",
    "finalizing": "RUNNING",
    "cancelling": "CANCELLATION_REQUESTED",
    "completed": "SUCCESS",
    "failed": "FAILED",
    "expired": "TIMEOUT_EXCEEDED",
    "cancelled": "CANCELLED",
}


class BatchJobs:
    """Handlers of the batch jobs API, and the record of all jobs."""

    def __init__(self, engine: Engine, store: FileStore, habits: Habits) -> None:
        self._engine = engine
        self._store = store
        self._habits = habits
        self._batches = BatchRecords(engine, store, habits, _no_job)
        self._inputs: dict[str, list[str]] = {}

    def routes(self) -> list[Route]:
        """Return the endpoints served here."""
        return [
            Route("POST", "/v1/batch/jobs", self._create),
            Route("GET", "/v1/batch/jobs", self._list),
            Route("GET", "/v1/batch/jobs/{id}", self._retrieve),
            Route("POST", "/v1/batch/jobs/{id}/cancel", self._cancel),
            Route("DELETE", "/v1/batch/jobs/{id}", self._delete),
        ]

    async def _create(self, call: Call) -> Reply:
        check_create(call)
        body = await json_object(call)
        hours = _checked(body)
        source = stored_input(
            self._engine, self._store, call, self._lines(call, body), purpose=self._habits.purpose
        )
        batch = self._batches.begin(
            call,
            prefix="job-",
            endpoint=body["endpoint"],
            input_file_id=source.id,
            metadata=body.get("metadata"),
            windows=hours / 24,
        )
        self._inputs[batch.id] = body.get("input_files") or []
        return json_reply(self._show(batch))

    def _lines(self, call: Call, body: dict[str, Any]) -> Iterator[bytes]:
        endpoint, model = body["endpoint"], body.get("model")
        requests: Iterator[Any] = iter(body.get("requests") or ())
        if body.get("input_files"):
            requests = self._requests_of([self._input(call, one) for one in body["input_files"]])
        for number, request in enumerate(requests):
            yield openai_line(request, number=number, endpoint=endpoint, model=model)

    def _requests_of(self, files: list[StoredFile]) -> Iterator[Any]:
        for file in files:
            with file.path.open("rb") as lines:
                for line in lines:
                    try:
                        yield pydantic_core.from_json(line)
                    except ValueError:
                        yield None

    def _input(self, call: Call, file_id: str) -> StoredFile:
        now = self._engine.clock.now()
        file = self._store.find(file_id, project=call.key.project, now=now)
        if file is None or file.purpose != self._habits.purpose:
            raise ApiError(404, f"The input file {file_id} does not exist.")
        return file

    async def _list(self, call: Call) -> Reply:
        check_scope(call)
        number, size = (int(call.argument(name) or usual) for name, usual in _PAGE.items())
        since = call.argument("created_after")
        after = datetime.fromisoformat(since).timestamp() if since else float("-inf")
        found = [batch for batch in self._batches.listed(call) if batch.created_at > after]
        if call.argument("order_by") != "created":
            found.reverse()
        page = [self._show(batch) for batch in found[number * size : (number + 1) * size]]
        return json_reply({"object": "list", "data": page, "total": len(found)})

    async def _retrieve(self, call: Call) -> Reply:
        check_scope(call)
        batch = self._batches.find(call)
        if call.argument("inline") == "true" and batch.is_terminal:
            return Reply(self._with_outputs(batch))
        return json_reply(self._show(batch))

    async def _with_outputs(self, batch: Batch) -> AsyncGenerator[bytes, None]:
        yield pydantic_core.to_json(self._show(batch) | {"outputs": None})[:-5] + b"["
        files = (batch.output_file_id, batch.error_file_id)
        comma = b""
        for item in result_items(self._store, files, project=batch.project):
            yield comma + item
            comma = b","
        yield b"]}"

    async def _cancel(self, call: Call) -> Reply:
        check_scope(call)
        batch = self._batches.find(call)
        if batch.is_terminal:
            raise ApiError(409, f"Cannot cancel a job that is {_WORDS[batch.status]}.")
        self._batches.stop(batch)
        return json_reply(self._show(batch))

    async def _delete(self, call: Call) -> Reply:
        check_scope(call)
        batch = self._batches.find(call)
        if not batch.is_terminal:
            raise ApiError(409, "Only a job that has ended can be deleted.")
        self._batches.remove(batch)
        return json_reply({"id": batch.id, "object": "batch", "deleted": True})

    def _show(self, batch: Batch) -> dict[str, Any]:
        shown = self._batches.shown(batch)
        failures = [entry["message"] for entry in batch.errors or ()]
        return {
            "id": batch.id,
            "object": "batch",
            "input_files": self._inputs[batch.id],
            "metadata": batch.metadata,
            "endpoint": batch.endpoint,
            "model": batch.model,
            "agent_id": None,
            "output_file": shown["output_file_id"],
            "error_file": shown["error_file_id"],
            "errors": [{"message": message, "count": 1} for message in failures],
            "status": _WORDS.get(shown["status"], shown["status"]),
            "created_at": shown["created_at"],
            "started_at": shown["in_progress_at"],
            "completed_at": shown["completed_at"],
            "total_requests": batch.total,
            "completed_requests": batch.completed + batch.failed,
            "succeeded_requests": batch.completed,
            "failed_requests": batch.failed,
        }


_PAGE: Final = {"page": "0", "page_size": "100"}


def _no_job(job_id: str) -> ApiError:
    return ApiError(404, f"No batch job found with id '{job_id}'.")


def _checked(body: dict[str, Any]) -> int:
    """Check a create; return its timeout in hours."""
    if body.get("endpoint") not in _ENDPOINTS:
        raise errors.invalid("endpoint", f"Invalid value: '{body.get('endpoint')}'.")
    requests, files = body.get("requests"), body.get("input_files")
    if (requests is None) == (files is None):
        raise errors.invalid("requests", "Give either 'requests' or 'input_files'.")
    if requests is not None and not 0 < len(requests) <= _INLINE_MAX:
        raise errors.invalid("requests", f"Between 1 and {_INLINE_MAX} requests go inline.")
    for key, value in (body.get("metadata") or {}).items():
        fits = isinstance(value, str) and 0 < len(value) <= _METADATA_VALUE_MAX
        if not fits or not 0 < len(key) <= _METADATA_KEY_MAX:
            raise errors.invalid("metadata", f"Invalid 'metadata.{key}'.")
    hours = body.get("timeout_hours", 24)
    if type(hours) is not int or not 0 < hours < _HOURS_MAX:
        raise errors.invalid("timeout_hours", "Must be a positive integer below seven days.")
    return hours
