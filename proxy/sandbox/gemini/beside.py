"""Gemini by its OpenAI API, and what of its own API its batches need: on a prefix of their own.

The OpenAI API creates batches and shows them; it takes no files, and lists and cancels nothing.
All that is done by Gemini's own API beside it, to which the same batches are operations.

Sources: Gemini API, "OpenAI compatibility", "Batch API" and "Files API".
"""

import re
from dataclasses import replace
from typing import Any, Final

from aiohttp import web

from proxy.sandbox.engine import Engine
from proxy.sandbox.files import FileStore
from proxy.sandbox.gemini import errors
from proxy.sandbox.gemini.fields import masked, moment, page
from proxy.sandbox.gemini.files import FILE_LIFE_S, Files
from proxy.sandbox.openai.api import OpenAIDialect
from proxy.sandbox.openai.batch import Batch
from proxy.sandbox.openai.batch_records import BatchRecords, check_create, check_scope
from proxy.sandbox.openai.habits import Habits
from proxy.sandbox.openai.live import json_object
from proxy.sandbox.wire import ApiError, Call, Reply, Route, json_reply

_WINDOWS: Final = 2
"""A batch has twice the time that it has elsewhere, whichever API created it."""

_STATES: Final = {
    "validating": "PENDING",
    "in_progress": "RUNNING",
    "finalizing": "RUNNING",
    "cancelling": "RUNNING",
    "completed": "SUCCEEDED",
    "failed": "FAILED",
    "expired": "EXPIRED",
    "cancelled": "CANCELLED",
}


def _gemini_batch(shown: dict[str, Any]) -> dict[str, Any]:
    names = ("input_file_id", "output_file_id", "error_file_id")
    files = {name: shown[name] and f"files/{shown[name]}" for name in names}
    if shown["status"] in {"expired", "cancelled"}:
        # What was finished of it cannot be read, and the rest is not counted as failed.
        counts = {**shown["request_counts"], "failed": 0}
        files |= {"output_file_id": None, "error_file_id": None, "request_counts": counts}
    return {**shown, **files, "metadata": None}


def _gemini_refusal(exc: ApiError) -> Reply:
    """Return an error as Google words it, within a list (continuedev/continue #8516)."""
    if exc.code == "invalid_api_key":
        exc = errors.bad_key()
    elif exc.status == 401:
        exc = errors.invalid("Missing or invalid Authorization header.")
    elif exc.code == "insufficient_quota":
        exc = errors.billing_disabled()
    elif exc.code == "model_not_found":
        exc = errors.not_found(f"models/{exc.message}")
    elif exc.param is not None:
        exc = ApiError(exc.status, exc.message)
    return json_reply([errors.error_body(exc)], status=exc.status)


_CALLS: Final = frozenset({"/v1/chat/completions", "/v1/embeddings"})
GEMINI: Final = Habits(
    prefix="/gemini-openai",
    root="/v1beta/openai",
    shares_prefix=True,
    serves_files=False,
    # Its files come by another API, which keeps their type.
    purpose="application/jsonl",
    calls=_CALLS,
    endpoints=_CALLS,
    batch=_gemini_batch,
    refusal=_gemini_refusal,
)
"""Calls are OpenAI's; files, and most of what is done to batches, are Gemini's."""


class GeminiBeside:
    """Gemini's own API, for the files and batches of its OpenAI API; `openai` is that."""

    request_id_header: Final = "x-request-id"

    def __init__(self, engine: Engine) -> None:
        store = FileStore(engine.directory)
        self._files = Files(engine, store)
        self._batches = BatchRecords(engine, store, GEMINI, _no_batch, prefix="batches/")
        shown = _ShownAsOpenAIs(self._batches)
        self.openai = OpenAIDialect(engine, GEMINI, lambda *_: shown)

    def routes(self) -> list[Route]:
        """Return the endpoints served here."""
        own = (
            Route("GET", "/v1beta/batches", self._list),
            Route("POST", "/v1beta/batches/{id}:cancel", self._cancel),
        )
        return [
            replace(route, path=GEMINI.prefix + route.path)
            for route in (*own, *self._files.routes())
        ]

    def recognises(self, request: web.Request) -> bool:
        """Return whether a request is for Gemini's own API on this prefix."""
        return request.path.startswith(f"{GEMINI.prefix}/") and not self.openai.recognises(request)

    def credential(self, request: web.Request) -> str | None:
        """Return the key that a request carries; no bearer is one here."""
        key = request.headers.get("x-goog-api-key")
        return str(key) if key else self._files.key_of(request.query.get("upload_id"))

    def unauthorized(self, *, has_credential: bool) -> ApiError:
        """Return the refusal of a wrong or absent key."""
        return errors.bad_key() if has_credential else errors.no_key()

    def unknown(self, method: str, path: str) -> ApiError:  # noqa: ARG002 (it says no more)
        """Return the refusal of a URL that is no endpoint."""
        return errors.not_found("The requested URL was not found on this server.")

    def refuse(self, exc: ApiError, request_id: str) -> Reply:  # noqa: ARG002 (only a header)
        """Return a refusal as this dialect words it."""
        return errors.error_reply(exc)

    async def _list(self, call: Call) -> Reply:
        check_scope(call)
        found = [_operation(batch) for batch in reversed(self._batches.listed(call))]
        return json_reply(
            masked(page(call, "operations", found, default=50), call.argument("fields"))
        )

    async def _cancel(self, call: Call) -> Reply:
        check_scope(call)
        batch = self._batches.find(call)
        if batch.is_terminal:
            raise errors.precondition("The batch has ended and cannot be cancelled.")
        self._batches.stop(batch)
        return json_reply({})


class _ShownAsOpenAIs:
    """What the OpenAI API has of batches."""

    def __init__(self, batches: BatchRecords, habits: Habits = GEMINI) -> None:
        self._batches = batches
        self._habits = habits

    def routes(self) -> list[Route]:
        """Return the endpoints served here: the name of a batch has a segment more than its ID."""
        return [
            Route("POST", "/v1/batches", self._create),
            Route("GET", "/v1/batches/batches/{id}", self._retrieve),
            Route("GET", "/v1/batches/{id}", self._retrieve),
        ]

    async def _create(self, call: Call) -> Reply:
        check_create(call)
        body = await json_object(call)
        for field in sorted(body.keys() - {"input_file_id", "endpoint", "completion_window"}):
            raise errors.unknown_name(field, "")
        if body.get("endpoint") not in self._habits.endpoints:
            raise errors.invalid("Invalid endpoint.")
        if body.get("completion_window") not in self._habits.windows:
            raise errors.invalid("Invalid completion window.")
        name = re.fullmatch(r"files/([\w-]+)", str(body.get("input_file_id")))
        if name is None:
            raise errors.invalid("input_file_id must be the name of a file.")
        batch = self._batches.begin(
            call,
            prefix="batches/",
            windows=_WINDOWS,
            endpoint=body["endpoint"],
            input_file_id=name[1],
            output_life_s=FILE_LIFE_S,
        )
        return json_reply(self._show(batch))

    async def _retrieve(self, call: Call) -> Reply:
        check_scope(call)
        return json_reply(self._show(self._batches.find(call)))

    def _show(self, batch: Batch) -> dict[str, Any]:
        return self._habits.batch(self._batches.shown(batch))


def _operation(batch: Batch) -> dict[str, Any]:
    has_results = batch.status == "completed" and batch.output_file_id
    files = {"responsesFile": f"files/{batch.output_file_id}"} if has_results else {}
    return {
        "name": batch.id,
        "done": batch.is_terminal,
        "metadata": {
            "name": batch.id,
            "state": f"BATCH_STATE_{_STATES[batch.status]}",
            "createTime": moment(batch.created_at),
            "inputConfig": {"fileName": f"files/{batch.input_file_id}"},
            "output": files,
        },
    }


def _no_batch(batch_id: str) -> ApiError:
    return errors.not_found(f"{batch_id} is not found.")
