"""Rows of the Anthropic family."""

from typing import Final

from proxy.core.dialects.records import Dialect, Endpoint, Family, Shape

ANTHROPIC_VERSION: Final = "2023-06-01"
"""The `anthropic-version` of calls that no caller made: what we read has not changed since."""

ROWS: Final = (
    Dialect(
        name="anthropic",
        family=Family.ANTHROPIC,
        endpoints={
            "/v1/messages": Endpoint(
                path="/v1/messages",
                shape=Shape.MESSAGES,
                required=("model", "messages", "max_tokens"),
                unbatched_fields=("speed", "fallbacks"),
            )
        },
        credential_headers=("x-api-key", "authorization"),
        billing_headers=("anthropic-workspace-id",),
        batch_headers=("anthropic-version", "anthropic-beta"),
        # Of `client.beta.messages`; what is beta about a call stands in its headers.
        idle_queries=("beta=true",),
        listing_headers=(("anthropic-version", ANTHROPIC_VERSION),),
    ),
)
