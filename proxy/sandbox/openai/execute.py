"""Any OpenAI body to its one answer, whichever lane asks: the table of endpoints."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from proxy.sandbox.engine import Execution
from proxy.sandbox.openai import errors
from proxy.sandbox.openai.chat import complete
from proxy.sandbox.openai.images import edit, generate
from proxy.sandbox.openai.mistral import classify, fill_in, read_document
from proxy.sandbox.openai.plain import complete_text, embed, moderate
from proxy.sandbox.openai.responses import respond
from proxy.sandbox.settings import ModelSpec, SandboxSettings
from proxy.sandbox.wire import ApiError

_DEFAULT_MODERATION: Final = "omni-moderation-latest"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint that executes bodies."""

    path: str
    kind: str
    answer: Callable[..., Execution]


def _by_path(*endpoints: Endpoint) -> dict[str, Endpoint]:
    return {endpoint.path: endpoint for endpoint in endpoints}


OPENAI_ENDPOINTS: Final = _by_path(
    Endpoint("/v1/chat/completions", "chat", complete),
    Endpoint("/v1/responses", "chat", respond),
    Endpoint("/v1/embeddings", "embedding", embed),
    Endpoint("/v1/completions", "completion", complete_text),
    Endpoint("/v1/moderations", "moderation", moderate),
    Endpoint("/v1/images/generations", "image", generate),
    Endpoint("/v1/images/edits", "image", edit),
)

MISTRAL_ENDPOINTS: Final = _by_path(
    Endpoint("/v1/ocr", "ocr", read_document),
    Endpoint("/v1/fim/completions", "completion", fill_in),
    Endpoint("/v1/chat/moderations", "moderation", moderate),
    Endpoint("/v1/classifications", "moderation", classify),
    Endpoint("/v1/chat/classifications", "moderation", classify),
)
"""What Mistral alone has."""

ENDPOINTS: Final = OPENAI_ENDPOINTS | MISTRAL_ENDPOINTS
"""Also the endpoints that batches may name."""


def execute(
    path: str, body: dict[str, Any], settings: SandboxSettings, *, now: float, tier: str = "default"
) -> Execution:
    """Answer one body of an endpoint in `ENDPOINTS`.

    Raises `ApiError` with OpenAI's status and code if the body is not acceptable; nothing is
    billed here.
    """
    model = find_model(path, body, settings)
    return ENDPOINTS[path].answer(body, model, now=now, tier=tier)


def find_model(path: str, body: dict[str, Any], settings: SandboxSettings) -> ModelSpec:
    """Return the model that a body names, if it can serve that endpoint."""
    name = body.get("model")
    if name is None and path == "/v1/moderations":
        name = _DEFAULT_MODERATION
    if name is None:
        raise errors.invalid("model", "you must provide a model parameter")
    model = settings.model(name) if isinstance(name, str) else None
    if model is None:
        raise errors.model_not_found(name)
    if model.kind != ENDPOINTS[path].kind:
        raise ApiError(
            404, f"This is not a model for the {path.removeprefix('/')} endpoint.", param="model"
        )
    return model
