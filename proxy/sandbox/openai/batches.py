"""`/v1/batches` as OpenAI offers it.

Source: OpenAI API description, `/batches` (openapi.yaml, 2026-08-21), and the Batch guide.
"""

from typing import Any, Final

from proxy.sandbox.engine import Engine
from proxy.sandbox.files import FileStore
from proxy.sandbox.openai import errors
from proxy.sandbox.openai.batch import Batch
from proxy.sandbox.openai.batch_records import BatchRecords, check_create, check_scope
from proxy.sandbox.openai.fields import page_limit, paginate
from proxy.sandbox.openai.files import life_seconds
from proxy.sandbox.openai.habits import Habits
from proxy.sandbox.openai.live import json_object
from proxy.sandbox.wire import ApiError, Call, Reply, Route, json_reply

_METADATA_PAIRS_MAX: Final = 16
_METADATA_KEY_MAX: Final = 64
_METADATA_VALUE_MAX: Final = 512


class Batches:
    """Handlers of the batches API, and the record of all batches."""

    def __init__(self, engine: Engine, store: FileStore, habits: Habits) -> None:
        self._habits = habits
        self._batches = BatchRecords(engine, store, habits, _no_batch)

    def routes(self) -> list[Route]:
        """Return the endpoints served here."""
        return [
            Route("POST", "/v1/batches", self._create),
            Route("GET", "/v1/batches", self._list),
            Route("GET", "/v1/batches/{id}", self._retrieve),
            Route("POST", "/v1/batches/{id}/cancel", self._cancel),
        ]

    async def _create(self, call: Call) -> Reply:
        check_create(call)
        batch = self._accepted(call, await json_object(call))
        return json_reply(self._habits.created(self._show(batch)))

    def _accepted(self, call: Call, body: dict[str, Any]) -> Batch:
        habits = self._habits
        for name in _unknown(body, habits):
            raise errors.invalid(name, f"Unknown parameter: '{name}'.")
        for name in ("input_file_id", "endpoint", "completion_window"):
            if name not in body:
                raise errors.missing(name)
            if not isinstance(body[name], str):
                raise errors.invalid(name, f"Invalid type for '{name}'.", code="invalid_type")
        if body["endpoint"] not in habits.endpoints:
            raise errors.invalid("endpoint", f"Invalid value: '{body['endpoint']}'.")
        window = body["completion_window"]
        if window not in habits.windows:
            raise errors.invalid("completion_window", f"Supported values are: {[*habits.windows]}.")
        return self._batches.begin(
            call,
            endpoint=body["endpoint"],
            input_file_id=body["input_file_id"],
            metadata=_metadata(body.get("metadata")),
            output_life_s=_output_life(body.get("output_expires_after")),
            window=window,
            windows=habits.windows[window],
        )

    async def _list(self, call: Call) -> Reply:
        check_scope(call)
        shown = [self._show(batch) for batch in reversed(self._batches.listed(call))]
        limit = page_limit(call, default=20, highest=100)
        after = call.argument(self._habits.cursor)
        return json_reply(self._habits.listed(paginate(shown, after, limit)))

    async def _retrieve(self, call: Call) -> Reply:
        check_scope(call)
        batch = self._batches.find(call, shows_vanished=True)
        if self._batches.vanished(batch) is not None:
            return json_reply(errors.error_body(_no_batch(batch.id)))
        return json_reply(self._show(batch))

    async def _cancel(self, call: Call) -> Reply:
        check_scope(call)
        batch = self._batches.find(call, shows_vanished=True)
        if batch.is_terminal:
            raise ApiError(409, f"Cannot cancel a batch with status '{batch.status}'.")
        self._batches.stop(batch)
        return json_reply(self._show(batch))

    def _show(self, batch: Batch) -> dict[str, Any]:
        return self._habits.batch(self._batches.shown(batch))


def _no_batch(batch_id: str) -> ApiError:
    return ApiError(404, f"No batch found with id '{batch_id}'.")


def _unknown(body: dict[str, Any], habits: Habits) -> list[str]:
    refused = set() if habits.takes_metadata else {"metadata"}
    if not habits.takes_expiry:
        refused.add("output_expires_after")
    return sorted(refused & body.keys())


def _metadata(value: Any) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) > _METADATA_PAIRS_MAX:
        raise errors.invalid("metadata", "Invalid 'metadata': at most 16 pairs.")
    for key, text in value.items():
        if not isinstance(text, str):
            raise errors.invalid("metadata", f"Invalid 'metadata.{key}': expected a string.")
        if len(key) > _METADATA_KEY_MAX or len(text) > _METADATA_VALUE_MAX:
            raise errors.invalid("metadata", "Invalid 'metadata': string too long.")
    return value


def _output_life(value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, dict) or value.get("anchor") != "created_at":
        raise errors.invalid("output_expires_after.anchor", "Only 'created_at' is supported.")
    return life_seconds(value.get("seconds"), "output_expires_after.seconds")
