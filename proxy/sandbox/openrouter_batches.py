"""`/v1/batches` as OpenRouter offers it: requests in the create, results in the batch.

Source: OpenRouter, "Batch API Quickstart" and API reference; types of its Python SDK.
"""

from collections.abc import AsyncGenerator
from typing import Any, Final

import pydantic_core

from proxy.sandbox.engine import Engine
from proxy.sandbox.files import FileStore
from proxy.sandbox.openai import errors
from proxy.sandbox.openai.batch import Batch
from proxy.sandbox.openai.batch_records import BatchRecords, check_create, check_scope
from proxy.sandbox.openai.fields import page_limit, paginate
from proxy.sandbox.openai.habits import Habits
from proxy.sandbox.openai.live import json_object
from proxy.sandbox.own_lines import openai_line, result_items, stored_input
from proxy.sandbox.wire import ApiError, Call, Reply, Route, json_reply

_ENDPOINTS: Final = frozenset({"/v1/chat/completions", "/v1/responses", "/v1/embeddings"})
REQUESTS_MAX: Final = 5_000


class InlineBatches:
    """Handlers of the batches API, and the record of all batches."""

    def __init__(self, engine: Engine, store: FileStore, habits: Habits) -> None:
        self._engine = engine
        self._store = store
        self._habits = habits
        self._batches = BatchRecords(engine, store, habits, _no_batch)
        self._totals: dict[str, int] = {}

    def routes(self) -> list[Route]:
        """Return the endpoints served here."""
        return [
            Route("POST", "/v1/batches", self._create),
            Route("GET", "/v1/batches", self._list),
            Route("GET", "/v1/batches/{id}", self._retrieve),
            Route("DELETE", "/v1/batches/{id}", self._delete),
            Route("GET", "/v1/key", self._key),
        ]

    async def _key(self, call: Call) -> Reply:
        return json_reply({"data": {"label": call.key.key_id}})

    async def _create(self, call: Call) -> Reply:
        check_create(call)
        body = await json_object(call)
        _check(body)
        lines = [
            openai_line(request, number=number, endpoint=body["endpoint"], model=body["model"])
            for number, request in enumerate(body["requests"])
        ]
        source = stored_input(self._engine, self._store, call, lines, purpose=self._habits.purpose)
        batch = self._batches.begin(
            call,
            endpoint=body["endpoint"],
            input_file_id=source.id,
            model=body["model"],
        )
        self._totals[batch.id] = len(lines)
        return json_reply(self._show(batch), status=202)

    async def _list(self, call: Call) -> Reply:
        check_scope(call)
        shown = [self._show(batch) for batch in reversed(self._batches.listed(call))]
        limit = page_limit(call, default=20, highest=100)
        return json_reply(paginate(shown, call.argument("after"), limit))

    async def _retrieve(self, call: Call) -> Reply:
        check_scope(call)
        batch = self._batches.find(call)
        return (
            Reply(self._with_results(batch)) if batch.is_terminal else json_reply(self._show(batch))
        )

    async def _with_results(self, batch: Batch) -> AsyncGenerator[bytes, None]:
        # The last member is `results`, and null.
        yield pydantic_core.to_json(self._show(batch))[:-5] + b"["
        comma = b""
        files = (batch.output_file_id, batch.error_file_id)
        for item in result_items(self._store, files, project=batch.project):
            yield comma + item
            comma = b","
        yield b"]}"

    async def _delete(self, call: Call) -> Reply:
        check_scope(call)
        batch = self._batches.find(call)
        if not batch.is_terminal:
            raise ApiError(409, "A batch in progress cannot be deleted.")
        self._batches.remove(batch)
        return json_reply(
            {"id": batch.id, "object": "batch", "deletion": {"openrouter": "deleted"}}
        )

    def _show(self, batch: Batch) -> dict[str, Any]:
        shown = self._batches.shown(batch)
        failures = [{"message": entry["message"]} for entry in batch.errors or ()]
        ended = [shown[f"{word}_at"] for word in ("completed", "failed", "expired", "cancelled")]
        return {
            "id": batch.id,
            "object": "batch",
            "status": shown["status"],
            "endpoint": batch.endpoint,
            "model": batch.model,
            "completion_window": "24h",
            "created_at": shown["created_at"],
            "finalized_at": next((at for at in ended if at is not None), None),
            "request_counts": shown["request_counts"] | {"total": self._totals[batch.id]},
            "usage": shown["usage"],
            "error": failures[0] if failures else None,
            "results": None,
        }


def _no_batch(batch_id: str) -> ApiError:
    return ApiError(404, f"No batch found with id '{batch_id}'.")


def _check(body: dict[str, Any]) -> None:
    for name in ("endpoint", "model", "requests"):
        if name not in body:
            raise errors.missing(name)
    names = list(body)
    if any(names.index(name) > names.index("requests") for name in ("endpoint", "model")):
        raise errors.invalid("requests", "'endpoint' and 'model' come before 'requests'.")
    if body["endpoint"] not in _ENDPOINTS:
        raise errors.invalid("endpoint", f"Invalid value: '{body['endpoint']}'.")
    if not isinstance(body["requests"], list) or not 0 < len(body["requests"]) <= REQUESTS_MAX:
        raise errors.invalid("requests", f"Between 1 and {REQUESTS_MAX} requests make a batch.")
    for request in body["requests"]:
        inner = request.get("body") if isinstance(request, dict) else None
        if isinstance(inner, dict) and inner.get("model", body["model"]) != body["model"]:
            raise errors.invalid("requests", "A request names another model than its batch.")
