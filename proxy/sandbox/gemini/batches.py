"""Batches as Gemini offers them: created below their model, and then operations.

A create is not idempotent, as its documentation says: the same one twice makes two batches.

Sources: google-genai SDK 3.6, `batches`; Gemini API, "Batch API" and "Rate limits".
"""

from typing import Any, Final

from proxy.sandbox.engine import Engine, new_id
from proxy.sandbox.files import FileStore
from proxy.sandbox.gemini import errors
from proxy.sandbox.gemini.batch import Batch, BatchRun
from proxy.sandbox.gemini.content import find_model
from proxy.sandbox.gemini.fields import VERSIONS, camel, json_object, masked, page
from proxy.sandbox.gemini.intake import Rows, inlined_rows, rows_of_file
from proxy.sandbox.records import Records
from proxy.sandbox.settings import ModelSpec
from proxy.sandbox.wire import ApiError, Call, Reply, Route, json_reply

_WINDOWS: Final = 2
"""A batch has twice the time that it has elsewhere: it expires after 48 hours, and aims at 24."""

_CREATES: Final = {
    "batchGenerateContent": "generateContent",
    "asyncBatchEmbedContent": "embedContent",
}


class Batches:
    """Handlers of the batches API, and the record of all batches."""

    def __init__(self, engine: Engine, store: FileStore) -> None:
        self._engine = engine
        self._store = store
        self._batches: Records[Batch] = Records(engine, _no_batch, prefix="batches/")

    def routes(self) -> list[Route]:
        """Return the endpoints served here, in both versions."""
        return [
            route
            for version in VERSIONS
            for route in (
                *(Route("POST", f"{version}/models/{{model}}:{m}", self._create) for m in _CREATES),
                Route("GET", f"{version}/batches", self._list),
                Route("GET", f"{version}/batches/{{id}}", self._retrieve),
                Route("POST", f"{version}/batches/{{id}}:cancel", self._cancel),
                Route("DELETE", f"{version}/batches/{{id}}", self._delete),
            )
        ]

    async def _create(self, call: Call) -> Reply:
        _check_scope(call)
        if not call.key.in_quota and call.key.quota_surface == "call":
            raise errors.billing_disabled()
        create = call.request.path.rpartition(":")[2]
        method = _CREATES[create]
        model = self._model(call, create, method)
        asked = camel((await json_object(call)).get("batch") or {})
        if not asked.get("displayName"):
            raise errors.invalid("batch.display_name is required.")
        config = camel(asked.get("inputConfig") or {})
        rows = await self._rows(call, config, method)
        self._check_room(call, model, rows)
        batch = self._accepted(call, model, method, asked["displayName"], config, rows)
        self._batches.add(batch)
        created = json_reply(self._show(batch))
        self._engine.workers.spawn(BatchRun(self._engine, self._store, batch).run())
        return created

    def _model(self, call: Call, create: str, method: str) -> ModelSpec:
        try:
            model = find_model(call.part("model"), method, self._engine.settings)
        except ApiError:
            raise errors.no_model(call.part("model"), create) from None
        if not model.batchable:
            raise errors.no_model(model.id, create)
        return model

    async def _rows(self, call: Call, config: dict[str, Any], method: str) -> Rows:
        name = config.get("fileName")
        if name is None:
            size = call.request.content_length or 0
            if size > self._engine.settings.gemini_inline_bytes_max:
                raise errors.invalid("Request payload size exceeds the limit.")
            requests = (config.get("requests") or {}).get("requests")
            return await inlined_rows(self._store.new_path(), requests, method)
        file_id = str(name).removeprefix("files/")
        now = self._engine.clock.now()
        file = self._store.find(file_id, project=call.key.project, now=now)
        if file is None:
            raise errors.no_file(file_id)
        # A file of its own: a batch outlives the deletion of its input.
        path = self._store.new_path()
        path.hardlink_to(file.path)
        return await rows_of_file(path, method)

    def _check_room(self, call: Call, model: ModelSpec, rows: Rows) -> None:
        settings = self._engine.settings
        waiting = [
            one
            for one in self._batches.all()
            if one.project == call.key.project and one.ended_at is None
        ]
        if len(waiting) >= settings.gemini_batches_max:
            raise errors.quota_exceeded()
        limit = model.enqueued_tokens_max
        limit = settings.enqueued_tokens_max if limit is None else limit
        enqueued = sum(one.rows.prompt_tokens for one in waiting if one.model == model.id)
        if limit is not None and enqueued + rows.prompt_tokens > limit:
            raise errors.quota_exceeded()

    def _accepted(
        self,
        call: Call,
        model: ModelSpec,
        method: str,
        display_name: str,
        config: dict[str, Any],
        rows: Rows,
    ) -> Batch:
        now = self._engine.clock.now()
        return Batch(
            id=new_id("batches/"),
            project=call.key.project,
            key_id=call.key.key_id,
            model=model.id,
            method=method,
            display_name=str(display_name),
            rows=rows,
            results=self._store.new_path(),
            input_config={"fileName": config["fileName"]} if "fileName" in config else {},
            created_at=now,
            expires_at=now + _WINDOWS * self._engine.settings.window_s,
            fault_ids=self._engine.faults.for_new_batch(key_id=call.key.key_id, model=model.id),
        )

    async def _list(self, call: Call) -> Reply:
        _check_scope(call)
        found = [self._show(batch) for batch in reversed(self._batches.listed(call))]
        shown = page(call, "operations", found, default=50)
        return json_reply(masked(shown, call.argument("fields")))

    async def _retrieve(self, call: Call) -> Reply:
        _check_scope(call)
        batch = self._batches.find(call, shows_vanished=True)
        if self._batches.vanished(batch) == "error_body":
            return json_reply(errors.error_body(_no_batch(batch.id)))
        return json_reply(masked(self._show(batch), call.argument("fields")))

    async def _cancel(self, call: Call) -> Reply:
        _check_scope(call)
        batch = self._batches.find(call, shows_vanished=True)
        if batch.ended_at is not None:
            raise errors.precondition("The batch has ended and cannot be cancelled.")
        if batch.cancel_at is None:
            batch.cancel_at = self._engine.clock.now()
            self._engine.clock.nudge()
        return json_reply({})

    async def _delete(self, call: Call) -> Reply:
        _check_scope(call)
        batch = self._batches.find(call, shows_vanished=True)
        if batch.ended_at is None:
            raise errors.precondition("The batch is still running.")
        self._batches.remove(batch)
        batch.rows.path.unlink(missing_ok=True)
        batch.results.unlink(missing_ok=True)
        if batch.output_file is not None:
            self._store.delete(batch.output_file)
        return json_reply({})

    def _show(self, batch: Batch) -> dict[str, Any]:
        shown = batch.shown()
        for fault in self._batches.faults(batch):
            if fault.shown_status is not None:
                shown["metadata"]["state"] = fault.shown_status
        return shown


def _no_batch(batch_id: str) -> ApiError:
    return errors.not_found(f"{batch_id} is not found.")


def _check_scope(call: Call) -> None:
    if not call.key.batch_scope:
        raise errors.no_batch_scope()
