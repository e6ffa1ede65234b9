"""The interactive endpoints of the Gemini API, and the list of models."""

from dataclasses import replace
from typing import Any, Final

import pydantic_core

from proxy.sandbox.engine import Engine, Execution
from proxy.sandbox.gemini import errors
from proxy.sandbox.gemini.content import chunks, embed, find_model, generate, prompt_size
from proxy.sandbox.gemini.fields import (
    EMBED_FIELDS,
    GENERATE_FIELDS,
    VERSIONS,
    json_object,
    page,
    request_message,
)
from proxy.sandbox.interactive import compute, metered
from proxy.sandbox.settings import ModelSpec
from proxy.sandbox.wire import Call, Handler, Reply, Route, json_reply

_TIER_HEADER: Final = "x-gemini-service-tier"


class Live:
    """Answers calls at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> list[Route]:
        """Return the endpoints served here, in both versions."""
        methods: dict[str, Handler] = {
            "generateContent": self._generate,
            "streamGenerateContent": self._stream,
            "countTokens": self._count_tokens,
            "embedContent": self._embed,
            "batchEmbedContents": self._embed_several,
        }
        return [
            route
            for version in VERSIONS
            for route in (
                Route("GET", f"{version}/models", self._list_models),
                Route("GET", f"{version}/models/{{id}}", self._get_model),
                *(
                    Route("POST", f"{version}/models/{{model}}:{method}", handler)
                    for method, handler in methods.items()
                ),
            )
        ]

    async def _generate(self, call: Call) -> Reply:
        execution, lane = await self._generated(call)
        self._bill(execution, call, lane)
        tier = "flex" if lane == "flex" else "standard"
        return replace(json_reply(execution.body), headers={_TIER_HEADER: tier})

    async def _stream(self, call: Call) -> Reply:
        execution, lane = await self._generated(call)
        answers = list(chunks(execution.body))
        if call.argument("alt") == "sse":
            frames = [b"data: %b\r\n\r\n" % pydantic_core.to_json(one) for one in answers]
            kind = "text/event-stream"
        else:
            ends = [b",\r\n"] * (len(answers) - 1) + [b"]"]
            frames = [
                b"%b%b%b" % (b"" if at else b"[", pydantic_core.to_json(one), ends[at])
                for at, one in enumerate(answers)
            ]
            kind = "application/json; charset=UTF-8"
        sent = metered(self._engine, execution, frames, lambda done: self._bill(done, call, lane))
        return Reply(sent, content_type=kind)

    async def _generated(self, call: Call) -> tuple[Execution, str]:
        """Return an answer that is not billed yet, and the lane that bills it."""
        self._check_quota(call)
        model = find_model(call.part("model"), "generateContent", self._engine.settings)
        request = request_message(await json_object(call), GENERATE_FIELDS)
        lane = self._lane(request, model)
        execution = generate(request, model)
        await compute(self._engine)
        return execution, lane

    def _lane(self, request: dict[str, Any], model: ModelSpec) -> str:
        if str(request.get("serviceTier", "")).lower() != "flex":
            return "interactive"
        if not model.flexible:
            raise errors.invalid(f"Service tier flex is not supported for models/{model.id}.")
        if not self._engine.flex.take():
            raise errors.overloaded()
        return "flex"

    def _bill(self, execution: Execution, call: Call, lane: str = "interactive") -> None:
        endpoint = call.request.path.rpartition(":")[2]
        self._engine.bill(execution, key_id=call.key.key_id, endpoint=endpoint, lane=lane)

    async def _count_tokens(self, call: Call) -> Reply:
        find_model(call.part("model"), "generateContent", self._engine.settings)
        body = await json_object(call)
        return json_reply({"totalTokens": prompt_size(body.get("generateContentRequest") or body)})

    async def _embed(self, call: Call) -> Reply:
        execution = self._embedded(call, request_message(await json_object(call), EMBED_FIELDS))
        await compute(self._engine)
        self._bill(execution, call)
        return json_reply(execution.body)

    async def _embed_several(self, call: Call) -> Reply:
        body = await json_object(call)
        requests = body.get("requests")
        if not isinstance(requests, list) or not requests:
            raise errors.invalid("* BatchEmbedContentsRequest.requests: requests is not specified")
        messages = [
            request_message(one, EMBED_FIELDS, at=f"requests[{place}]")
            for place, one in enumerate(requests)
        ]
        executions = [self._embedded(call, message) for message in messages]
        await compute(self._engine)
        for execution in executions:
            self._bill(execution, call)
        return json_reply({"embeddings": [one.body["embedding"] for one in executions]})

    def _embedded(self, call: Call, message: dict[str, Any]) -> Execution:
        self._check_quota(call)
        model = find_model(call.part("model"), "embedContent", self._engine.settings)
        return embed(message, model)

    def _check_quota(self, call: Call) -> None:
        if not call.key.in_quota:
            raise errors.billing_disabled()

    async def _list_models(self, call: Call) -> Reply:
        models = [_model_object(one) for one in self._engine.settings.models if _is_ours(one)]
        return json_reply(page(call, "models", models, default=50))

    async def _get_model(self, call: Call) -> Reply:
        model = self._engine.settings.model(call.part("id"))
        if model is None or not _is_ours(model):
            raise errors.not_found(f"Model is not found: models/{call.part('id')}")
        return json_reply(_model_object(model))


def _is_ours(model: ModelSpec) -> bool:
    return model.kind in ("generate", "embed")


def _model_object(model: ModelSpec) -> dict[str, Any]:
    methods = ["generateContent", "countTokens"] if model.kind == "generate" else ["embedContent"]
    batch = "batchGenerateContent" if model.kind == "generate" else "asyncBatchEmbedContent"
    return {
        "name": f"models/{model.id}",
        "displayName": model.id,
        "inputTokenLimit": model.context_tokens,
        "supportedGenerationMethods": [*methods, *([batch] if model.batchable else [])],
    }
