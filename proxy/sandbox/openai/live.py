"""The interactive endpoints: one call, one answer, now."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import pydantic_core

from proxy.sandbox.engine import Engine, Execution
from proxy.sandbox.interactive import compute, metered
from proxy.sandbox.openai import errors
from proxy.sandbox.openai.chat import chunks
from proxy.sandbox.openai.execute import ENDPOINTS, execute, find_model
from proxy.sandbox.openai.habits import Habits
from proxy.sandbox.openai.images import image_events
from proxy.sandbox.openai.plain import text_chunks
from proxy.sandbox.openai.responses import events
from proxy.sandbox.openai.stored import StoredResponses
from proxy.sandbox.wire import ApiError, Call, Reply, Route, json_reply

_KINDS: Final = frozenset(endpoint.kind for endpoint in ENDPOINTS.values())
_FLEX_ENDPOINTS: Final = frozenset({"/v1/chat/completions", "/v1/responses"})


class Live:
    """Answers the calls that a member takes, and lists models."""

    def __init__(self, engine: Engine, stored: StoredResponses, habits: Habits) -> None:
        self._engine = engine
        self._stored = stored
        self._habits = habits

    def routes(self) -> list[Route]:
        """Return the endpoints served here."""
        return [
            *(Route("POST", path, self._answering(path)) for path in self._habits.calls),
            Route("GET", "/v1/models", self._list_models),
            Route("GET", "/v1/models/{id}", self._get_model),
        ]

    def _answering(self, path: str) -> Callable[[Call], Any]:
        async def answer(call: Call) -> Reply:
            return await self._answer(path, call)

        return answer

    async def _answer(self, path: str, call: Call) -> Reply:
        if not call.key.in_quota:
            raise errors.quota_exhausted()
        body = await json_object(call)
        lane, tier = self._lane(path, body)
        now = self._engine.clock.now()
        execution = execute(path, body, self._engine.settings, now=now, tier=tier)
        if lane == "flex" and not self._engine.flex.take():
            raise errors.flex_unavailable()
        if path == "/v1/responses" and body.get("background") and not body.get("stream"):
            return self._stored.start(execution, call.key, lane=lane)
        await compute(self._engine)
        if body.get("stream"):
            return self._stream(path, execution, body, call, lane)
        self._bill(path, execution, call, lane)
        if path == "/v1/responses":
            self._stored.keep(execution.body, call.key)
        return json_reply(self._habits.answer(execution.body))

    def _lane(self, path: str, body: dict[str, Any]) -> tuple[str, str]:
        """Return the lane that bills the call, and the `service_tier` that its answer names."""
        if path not in _FLEX_ENDPOINTS or body.get("service_tier") != "flex":
            return "interactive", "default"
        model = find_model(path, body, self._engine.settings)
        if not model.flexible:
            raise errors.invalid(
                "service_tier", f"Service tier 'flex' is not available for model {model.id}."
            )
        return "flex", "flex"

    def _bill(self, path: str, execution: Execution, call: Call, lane: str) -> None:
        self._engine.bill(execution, key_id=call.key.key_id, endpoint=path, lane=lane)

    def _stream(
        self, path: str, execution: Execution, body: dict[str, Any], call: Call, lane: str
    ) -> Reply:
        if path == "/v1/responses":
            self._stored.keep(execution.body, call.key)
        frames = list(_frames(path, execution.body, body))
        return Reply(
            metered(
                self._engine, execution, frames, lambda done: self._bill(path, done, call, lane)
            ),
            content_type="text/event-stream; charset=utf-8",
        )

    async def _list_models(self, call: Call) -> Reply:  # noqa: ARG002
        models = self._engine.settings.models
        data = [_model_object(model.id) for model in models if model.kind in _KINDS]
        return json_reply({"object": "list", "data": data})

    async def _get_model(self, call: Call) -> Reply:
        model = self._engine.settings.model(call.part("id"))
        if model is None or model.kind not in _KINDS:
            raise errors.model_not_found(call.part("id"))
        return json_reply(_model_object(model.id))


async def json_object(call: Call) -> dict[str, Any]:
    """Return the call's body, which must be a JSON object."""
    try:
        body = pydantic_core.from_json(await call.request.read())
    except ValueError as exc:
        raise errors.unparsable() from exc
    if not isinstance(body, dict):
        raise errors.unparsable()
    return body


def _named_events(path: str, answer: dict[str, Any]) -> Iterator[dict[str, Any]] | None:
    """Return the events of an API that names them; nothing for the others."""
    match path:
        case "/v1/responses":
            return events(answer)
        case "/v1/images/generations":
            return image_events("image_generation.completed", answer)
        case "/v1/images/edits":
            return image_events("image_edit.completed", answer)
        case _:
            return None


def _frames(path: str, answer: dict[str, Any], body: dict[str, Any]) -> Iterator[bytes]:
    named = _named_events(path, answer)
    if named is not None:
        for event in named:
            name = str(event["type"]).encode()
            yield b"event: " + name + b"\ndata: " + pydantic_core.to_json(event) + b"\n\n"
        return
    options = body.get("stream_options") or {}
    include_usage = bool(options.get("include_usage"))
    if path == "/v1/chat/completions":
        stream = chunks(answer, include_usage=include_usage)
    elif path == "/v1/completions":
        stream = text_chunks(answer, include_usage=include_usage)
    else:
        raise ApiError(400, f"Streaming is not supported at {path}.", param="stream")
    for chunk in stream:
        yield b"data: " + pydantic_core.to_json(chunk) + b"\n\n"
    yield b"data: [DONE]\n\n"


def _model_object(model_id: str) -> dict[str, Any]:
    return {"id": model_id, "object": "model", "created": 1_700_000_000, "owned_by": "sandbox"}
