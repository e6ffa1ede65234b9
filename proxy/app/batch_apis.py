"""Which adapter speaks to which upstream's batch API."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Final

from proxy.core.dialects import DIALECTS, BatchWire
from proxy.core.upstream import Upstream
from proxy.ports.clock import Clock
from proxy.ports.provider import Provider
from proxy.ports.upstream import UpstreamClient
from proxy.providers.anthropic_batches import AnthropicBatches
from proxy.providers.gemini_batches import GeminiBatches
from proxy.providers.gemini_openai_batches import GeminiOpenAIBatches
from proxy.providers.mistral_jobs import MistralBatches
from proxy.providers.openai_family import OpenAIBatches
from proxy.providers.openrouter_batches import OpenRouterBatches
from proxy.providers.xai_batches import XaiBatches
from proxy.settings import Settings

_ADAPTERS: Final[
    Mapping[
        BatchWire,
        type[AnthropicBatches]
        | type[GeminiBatches]
        | type[GeminiOpenAIBatches]
        | type[MistralBatches]
        | type[OpenRouterBatches]
        | type[XaiBatches],
    ]
] = {
    BatchWire.MESSAGES: AnthropicBatches,
    BatchWire.JOBS: MistralBatches,
    BatchWire.OPERATIONS: GeminiBatches,
    BatchWire.OPERATIONS_OF_FILES: GeminiOpenAIBatches,
    BatchWire.INLINE: OpenRouterBatches,
    BatchWire.COUNTED: XaiBatches,
}
"""Those that send over the client for forwarded calls: all but `BatchWire.FILES`."""


def providers(
    stack: AsyncExitStack,
    settings: Settings,
    upstreams: Mapping[str, Upstream],
    client: UpstreamClient,
    clock: Clock,
) -> Mapping[str, Provider]:
    """Return the batch API of each upstream that has one, closed with the stack."""
    found: dict[str, Provider] = {}
    web_proxy_of = settings.forwarding.web_proxy_of()
    for name, upstream in upstreams.items():
        api = DIALECTS[upstream.dialect].batch
        if api is None:
            continue
        if api.wire is not BatchWire.FILES:
            found[name] = _ADAPTERS[api.wire](upstream, api, client, clock=clock)
            continue
        batches = OpenAIBatches(
            upstream,
            api,
            clock=clock,
            batch_models=settings.upstreams[name].batch_models,
            web_proxy=web_proxy_of(upstream),
        )
        stack.push_async_callback(batches.aclose)
        found[name] = batches
    return found
