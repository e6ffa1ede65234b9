"""Rows of the Anthropic family: Anthropic, and servers of one's own that speak its API."""

from dataclasses import replace
from typing import Final

from proxy.core.dialects.batches import BatchApi, BatchWire, Mark
from proxy.core.dialects.records import Dialect, Endpoint, Family, Shape

ANTHROPIC_VERSION: Final = "2023-06-01"
"""The `anthropic-version` of calls that no caller made: what we read has not changed since."""

ANTHROPIC: Final = Dialect(
    name="anthropic",
    family=Family.ANTHROPIC,
    title="Anthropic",
    public_url="https://api.anthropic.com",
    endpoints={
        "/v1/messages": Endpoint(
            path="/v1/messages",
            shape=Shape.MESSAGES,
            required=("model", "messages", "max_tokens"),
            unbatched_fields=("speed", "fallbacks"),
            # A call that only fills a cache.
            unbatched_at_zero=("max_tokens",),
        )
    },
    credential_headers=("x-api-key", "authorization"),
    billing_headers=("anthropic-workspace-id",),
    batch_headers=("anthropic-version", "anthropic-beta"),
    # For `client.beta.messages`; what is beta about a call stands in its headers.
    idle_queries=("beta=true",),
    listing_headers=(("anthropic-version", ANTHROPIC_VERSION),),
    batch=BatchApi(
        wire=BatchWire.MESSAGES,
        max_requests=100_000,
        # "256 MB"; the smaller reading, with some left for brackets and commas.
        max_bytes=255_000_000,
        mark=Mark.NOTHING,
    ),
)

COMPATIBLE: Final = replace(
    ANTHROPIC,
    name="anthropic-compatible",
    title="Any other Anthropic-shaped server",
    public_url=None,
    endpoints={
        path: replace(endpoint, batched=False) for path, endpoint in ANTHROPIC.endpoints.items()
    },
    billing_headers=(),
    batch=None,
)

ROWS: Final = (ANTHROPIC, COMPATIBLE)
