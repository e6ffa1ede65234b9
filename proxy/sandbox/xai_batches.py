"""`/v1/batches` as xAI offers it, for batches that are created of a file.

A batch is a name and counts; its times are dates. Its results are in pages behind it, sorted
by their names. No order of lists is documented: here they are oldest first.

Sources: xAI, "Batch API" and REST API reference; types of its Python SDK 1.21.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pydantic_core

from proxy.sandbox.engine import Engine
from proxy.sandbox.files import FileStore
from proxy.sandbox.openai import errors
from proxy.sandbox.openai.batch import Batch
from proxy.sandbox.openai.batch_records import BatchRecords, check_create, check_scope
from proxy.sandbox.openai.fields import page_limit
from proxy.sandbox.openai.habits import Habits
from proxy.sandbox.openai.live import json_object
from proxy.sandbox.wire import ApiError, Call, Reply, Route, json_reply

_LIFE: Final = 30
"""In windows of the sandbox: for how long a batch is there, and runs if nobody stops it."""

_PAGE_MAX: Final = 1_000

_RPC_CODES: Final = {400: 3, 401: 16, 403: 7, 404: 5, 409: 9, 429: 8, 503: 14}
"""`google.rpc.Code`"""

_Place = tuple[str, Path, int]
"""The name of a result, and where its line begins in which file."""


class CountedBatches:
    """Handlers of the batches API, and the record of all batches."""

    def __init__(self, engine: Engine, store: FileStore, habits: Habits) -> None:
        self._engine = engine
        self._store = store
        self._batches = BatchRecords(engine, store, habits, _no_batch)
        self._names: dict[str, str] = {}
        self._places: dict[str, list[_Place]] = {}

    def routes(self) -> list[Route]:
        """Return the endpoints served here."""
        return [
            Route("POST", "/v1/batches", self._create),
            Route("GET", "/v1/batches", self._list),
            Route("GET", "/v1/batches/{id}", self._retrieve),
            Route("POST", "/v1/batches/{id}:cancel", self._cancel),
            Route("GET", "/v1/batches/{id}/results", self._results),
        ]

    async def _create(self, call: Call) -> Reply:
        check_create(call)
        body = await json_object(call)
        for name in ("name", "input_file_id"):
            if not isinstance(body.get(name), str):
                raise errors.missing(name)
        now = self._engine.clock.now()
        file = self._store.find(body["input_file_id"], project=call.key.project, now=now)
        if file is None or now < file.visible_at:
            raise ApiError(404, f"File {body['input_file_id']} not found.")
        batch = self._batches.begin(
            call,
            endpoint="/v1/chat/completions",
            input_file_id=file.id,
            windows=_LIFE,
        )
        self._names[batch.id] = body["name"]
        return json_reply(self._show(batch))

    async def _list(self, call: Call) -> Reply:
        check_scope(call)
        begin = int(call.argument("pagination_token") or 0)
        end = begin + page_limit(call, default=100, highest=_PAGE_MAX)
        found = self._batches.listed(call)
        shown = [self._show(batch) for batch in found[begin:end]]
        following = str(end) if end < len(found) else None
        return json_reply({"batches": shown, "pagination_token": following})

    async def _retrieve(self, call: Call) -> Reply:
        check_scope(call)
        return json_reply(self._show(self._batches.find(call)))

    async def _cancel(self, call: Call) -> Reply:
        check_scope(call)
        batch = self._batches.find(call)
        if batch.is_terminal:
            raise ApiError(409, "Nothing of this batch is pending.")
        self._batches.stop(batch)
        return json_reply(self._show(batch))

    async def _results(self, call: Call) -> Reply:
        check_scope(call)
        batch = self._batches.find(call)
        after = call.argument("pagination_token") or ""
        limit = page_limit(call, default=100, highest=_PAGE_MAX)
        places = self._places_of(batch) if batch.is_terminal else []
        # A name that is there twice is on one page.
        begin = next((n for n, (name, *_) in enumerate(places) if name > after), len(places))
        page = places[begin : begin + limit]
        following = page[-1][0] if len(places) > begin + limit else None
        results = b",".join(_result(path, offset) for _, path, offset in page)
        token = pydantic_core.to_json(following)
        return Reply(b'{"results":[%b],"pagination_token":%b}' % (results, token))

    def _places_of(self, batch: Batch) -> list[_Place]:
        if batch.id not in self._places:
            files = (batch.output_file_id, batch.error_file_id)
            found = [place for file_id in files for place in self._lines(file_id, batch.project)]
            self._places[batch.id] = sorted(found)
        return self._places[batch.id]

    def _lines(self, file_id: str | None, project: str) -> Iterator[_Place]:
        file = file_id and self._store.find(file_id, project=project, now=float("-inf"))
        if not file:
            return
        offset = 0
        with file.path.open("rb") as lines:
            for line in lines:
                yield _name(line), file.path, offset
                offset += len(line)

    def _show(self, batch: Batch) -> dict[str, Any]:
        cancelled = batch.failed if batch.status in {"expired", "cancelled"} else 0
        through = batch.completed + batch.failed
        # What has its answer is through only when that can be read.
        pending = max(batch.total - through, 0 if batch.is_terminal or not batch.total else 1)
        failures = batch.errors or ()
        stopped_at = batch.cancel_at or batch.at.get("failed")
        return {
            "batch_id": batch.id,
            "name": self._names[batch.id],
            "create_time": _date(batch.created_at),
            "expire_time": _date(batch.expires_at),
            "create_api_key_id": batch.key_id,
            "cancel_time": None if stopped_at is None else _date(stopped_at),
            "cancel_by_xai_message": failures[0]["message"] if failures else None,
            "state": {
                "num_requests": batch.total,
                "num_pending": pending,
                "num_success": batch.completed,
                "num_error": batch.failed - cancelled,
                "num_cancelled": cancelled,
            },
            "input_file_id": batch.input_file_id,
        }


def _no_batch(batch_id: str) -> ApiError:
    return ApiError(404, f"Batch {batch_id} not found.")


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def _name(line: bytes) -> str:
    """Return the name of a result; its line may be a broken one."""
    _, _, rest = line.partition(b'"custom_id":"')
    return rest.partition(b'"')[0].decode()


def _result(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        raw = file.readline()
    shown: dict[str, Any] = {"batch_request_id": _name(raw)}
    try:
        line = pydantic_core.from_json(raw)
    except ValueError:
        return pydantic_core.to_json(shown)
    response = line["response"]
    if response is None:
        shown["batch_result"] = {"error": line["error"]["message"]}
    elif response["status_code"] == 200:
        shown["batch_result"] = {"response": {"chat_get_completion": response["body"]}}
    else:
        error = response["body"]["error"]
        code = _RPC_CODES.get(response["status_code"], 13)
        shown["batch_result"] = {"error": {"code": code, "message": error["message"]}}
    return pydantic_core.to_json(shown)
