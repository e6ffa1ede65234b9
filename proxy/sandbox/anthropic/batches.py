"""`/v1/messages/batches` as Anthropic offers it.

Source: types of the Anthropic SDK 2.12, `messages.batches`, and the Batch processing guide.
"""

from typing import Any

from proxy.sandbox.anthropic import errors
from proxy.sandbox.anthropic.batch import MessageBatch, MessageBatchRun
from proxy.sandbox.anthropic.fields import check_version, page
from proxy.sandbox.anthropic.intake import find_requests, receive
from proxy.sandbox.engine import Engine, new_id
from proxy.sandbox.records import Records
from proxy.sandbox.wire import ApiError, Call, Reply, Route, json_reply

_PATH = "/v1/messages/batches"


class MessageBatches:
    """Handlers of the batches API, and the record of all batches."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._batches: Records[MessageBatch] = Records(engine, _no_batch)

    def routes(self) -> list[Route]:
        """Return the endpoints served here."""
        return [
            Route("POST", _PATH, self._create),
            Route("GET", _PATH, self._list),
            Route("GET", f"{_PATH}/{{id}}", self._retrieve),
            Route("POST", f"{_PATH}/{{id}}/cancel", self._cancel),
            Route("GET", f"{_PATH}/{{id}}/results", self._results),
            Route("DELETE", f"{_PATH}/{{id}}", self._delete),
        ]

    async def _create(self, call: Call) -> Reply:
        self._check(call)
        if not call.key.in_quota and call.key.quota_surface == "call":
            raise errors.credit_exhausted()
        settings, directory = self._engine.settings, self._engine.directory
        path, is_kept = directory / new_id("requests-"), False
        try:
            await receive(call, path, bytes_max=settings.inline_bytes_max)
            requests = await find_requests(path, requests_max=settings.inline_max)
            is_kept = True
        finally:
            if not is_kept:
                path.unlink(missing_ok=True)
        now = self._engine.clock.now()
        batch = MessageBatch(
            id=new_id("msgbatch_"),
            ordinal=self._batches.created,
            project=call.key.project,
            key_id=call.key.key_id,
            requests=requests,
            results=directory / new_id("results-"),
            created_at=now,
            expires_at=now + settings.window_s,
            fault_ids=self._engine.faults.for_new_batch(
                key_id=call.key.key_id, model=requests.model
            ),
        )
        self._batches.add(batch)
        created = json_reply(self._show(batch, call))
        self._engine.workers.spawn(MessageBatchRun(self._engine, batch).run())
        return created

    async def _list(self, call: Call) -> Reply:
        self._check(call)
        shown = [self._show(batch, call) for batch in reversed(self._batches.listed(call))]
        return json_reply(page(call, shown, 20))

    async def _retrieve(self, call: Call) -> Reply:
        self._check(call)
        return json_reply(self._show(self._batches.find(call), call))

    async def _cancel(self, call: Call) -> Reply:
        self._check(call)
        batch = self._batches.find(call)
        if batch.ended_at is not None:
            raise errors.invalid("Batch has ended and cannot be canceled.")
        if batch.cancel_at is None:
            batch.cancel_at = self._engine.clock.now()
            shown = self._show(batch, call)
            self._engine.clock.nudge()
            return json_reply(shown)
        return json_reply(self._show(batch, call))

    async def _results(self, call: Call) -> Reply:
        self._check(call)
        batch = self._batches.find(call)
        if not batch.has_results(self._engine.clock.now()):
            raise errors.not_found(f"Batch {batch.id} has no available results.")
        return Reply(batch.results, content_type="application/x-jsonl")

    async def _delete(self, call: Call) -> Reply:
        self._check(call)
        batch = self._batches.find(call)
        if batch.ended_at is None:
            raise errors.invalid("Only batches that have ended can be deleted.")
        self._batches.remove(batch)
        batch.requests.path.unlink(missing_ok=True)
        batch.results.unlink(missing_ok=True)
        return json_reply({"id": batch.id, "type": "message_batch_deleted"})

    def _check(self, call: Call) -> None:
        check_version(call)
        if not call.key.batch_scope:
            raise errors.no_batch_scope()

    def _show(self, batch: MessageBatch, call: Call) -> dict[str, Any]:
        now = self._engine.clock.now()
        shown = batch.shown(f"{call.request.scheme}://{call.request.host}", now)
        for fault in self._batches.faults(batch):
            if fault.shown_status is not None:
                shown["processing_status"] = fault.shown_status
        return shown


def _no_batch(batch_id: str) -> ApiError:
    return errors.not_found(f"Batch {batch_id} was not found.")
