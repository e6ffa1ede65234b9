"""The interactive endpoints of the Messages API, and the list of models."""

from typing import Any

import pydantic_core

from proxy.sandbox.anthropic import errors
from proxy.sandbox.anthropic.fields import check_version, json_object, page
from proxy.sandbox.anthropic.messages import answer, check_prompt, events, prompt_tokens
from proxy.sandbox.engine import Engine, Execution
from proxy.sandbox.interactive import compute, metered
from proxy.sandbox.wire import Call, Reply, Route, json_reply

MESSAGES = "/v1/messages"


class Live:
    """Answers calls at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> list[Route]:
        """Return the endpoints served here."""
        return [
            Route("POST", MESSAGES, self._answer),
            Route("POST", f"{MESSAGES}/count_tokens", self._count_tokens),
            Route("GET", "/v1/models", self._list_models),
            Route("GET", "/v1/models/{id}", self._get_model),
        ]

    async def _answer(self, call: Call) -> Reply:
        check_version(call)
        if not call.key.in_quota:
            raise errors.credit_exhausted()
        body = await json_object(call)
        execution = answer(body, self._engine.settings)
        await compute(self._engine)
        if body.get("stream"):
            frames = [_frame(event) for event in events(execution.body)]
            return Reply(
                metered(self._engine, execution, frames, lambda done: self._bill(done, call)),
                content_type="text/event-stream; charset=utf-8",
            )
        self._bill(execution, call)
        return json_reply(execution.body)

    def _bill(self, execution: Execution, call: Call) -> None:
        self._engine.bill(execution, key_id=call.key.key_id, endpoint=MESSAGES, lane="interactive")

    async def _count_tokens(self, call: Call) -> Reply:
        check_version(call)
        body = await json_object(call)
        check_prompt(body, self._engine.settings)
        return json_reply({"input_tokens": prompt_tokens(body)})

    async def _list_models(self, call: Call) -> Reply:
        check_version(call)
        models = [m for m in self._engine.settings.models if m.kind == "messages"]
        return json_reply(page(call, [_model_object(model.id) for model in models], 20))

    async def _get_model(self, call: Call) -> Reply:
        check_version(call)
        model = self._engine.settings.model(call.part("id"))
        if model is None or model.kind != "messages":
            raise errors.not_found(f"model: {call.part('id')}")
        return json_reply(_model_object(model.id))


def _frame(event: dict[str, Any]) -> bytes:
    name = str(event["type"]).encode()
    return b"event: " + name + b"\ndata: " + pydantic_core.to_json(event) + b"\n\n"


def _model_object(model_id: str) -> dict[str, Any]:
    return {
        "type": "model",
        "id": model_id,
        "display_name": model_id,
        "created_at": "2026-01-01T00:00:00Z",
    }
