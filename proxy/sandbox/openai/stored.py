"""Stored responses: background ones, and those that can be retrieved by ID later."""

import math
from dataclasses import dataclass
from typing import Any, Final

from proxy.sandbox.engine import Engine, Execution
from proxy.sandbox.keys import KeyState
from proxy.sandbox.wire import ApiError, Call, Reply, Route, json_reply

KEPT_MAX: Final = 10_000
"""The oldest response is forgotten beyond this, so that a long benchmark stays in bounds."""


@dataclass(slots=True)
class _Stored:
    project: str
    response: dict[str, Any]
    cancelled: bool = False


class StoredResponses:
    """`GET`, `DELETE` and `cancel` under `/v1/responses/{id}`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stored: dict[str, _Stored] = {}

    def routes(self) -> list[Route]:
        """Return the endpoints served here."""
        return [
            Route("GET", "/v1/responses/{id}", self._retrieve),
            Route("DELETE", "/v1/responses/{id}", self._delete),
            Route("POST", "/v1/responses/{id}/cancel", self._cancel),
        ]

    def keep(self, response: dict[str, Any], key: KeyState) -> _Stored:
        """Store a response for its project, unless it was asked not to be stored."""
        stored = _Stored(key.project, response)
        if response["store"] or response["background"]:
            self._stored[response["id"]] = stored
            if len(self._stored) > KEPT_MAX:
                del self._stored[next(iter(self._stored))]
        return stored

    def start(self, execution: Execution, key: KeyState, *, lane: str) -> Reply:
        """Accept a background response: answer `queued` at once and compute it later."""
        queued = {**execution.body, "status": "queued", "output": [], "usage": None}
        queued["incomplete_details"] = None
        queued.pop("completed_at", None)
        stored = self.keep(queued, key)
        self._engine.workers.spawn(self._compute(stored, execution, key.key_id, lane))
        return json_reply(queued)

    async def _compute(self, stored: _Stored, execution: Execution, key_id: str, lane: str) -> None:
        engine = self._engine
        started, takes = engine.clock.now(), engine.settings.background_s
        await engine.workers.rest(started + takes / 4, interrupted=lambda: stored.cancelled)
        if not stored.cancelled:
            stored.response["status"] = "in_progress"
            await engine.workers.rest(started + takes, interrupted=lambda: stored.cancelled)
        if stored.cancelled:
            return
        stored.response.update(execution.body)
        if "completed_at" in stored.response:
            stored.response["completed_at"] = math.floor(started + takes)
        engine.bill(execution, key_id=key_id, endpoint="/v1/responses", lane=lane)

    async def _retrieve(self, call: Call) -> Reply:
        return json_reply(self._find(call).response)

    async def _delete(self, call: Call) -> Reply:
        self._find(call)
        response_id = call.part("id")
        del self._stored[response_id]
        return json_reply({"id": response_id, "object": "response", "deleted": True})

    async def _cancel(self, call: Call) -> Reply:
        stored = self._find(call)
        if not stored.response["background"]:
            raise ApiError(400, "Only responses created with background=true can be cancelled.")
        # Idempotent, and without effect on what has ended: OpenAI, Background mode.
        if stored.response["status"] in ("queued", "in_progress"):
            stored.cancelled = True
            stored.response["status"] = "cancelled"
            self._engine.clock.nudge()
        return json_reply(stored.response)

    def _find(self, call: Call) -> _Stored:
        response_id = call.part("id")
        stored = self._stored.get(response_id)
        if stored is None or stored.project != call.key.project:
            raise ApiError(404, f"Response with id '{response_id}' not found.")
        return stored
