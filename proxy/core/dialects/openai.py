"""Rows of the OpenAI family."""

from typing import Final

from proxy.core.dialects.records import Dialect, Endpoint, Family, Shape

_ENDPOINTS: Final = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint(path="/v1/chat/completions", shape=Shape.CHAT, required=("model", "messages")),
        Endpoint(path="/v1/responses", shape=Shape.RESPONSES, required=("model",)),
        Endpoint(path="/v1/completions", shape=Shape.COMPLETIONS, required=("model", "prompt")),
        Endpoint(path="/v1/embeddings", shape=Shape.EMBEDDINGS, required=("model", "input")),
        Endpoint(path="/v1/moderations", shape=Shape.MODERATIONS, required=("input",)),
    )
}

ROWS: Final = (
    Dialect(
        name="openai",
        family=Family.OPENAI,
        endpoints=_ENDPOINTS,
        billing_headers=("openai-organization", "openai-project"),
    ),
)
