"""Ask after a provider batch, or stop it, with whatever key of ours may."""

from collections.abc import Awaitable, Callable

from proxy.core.batch import Batch
from proxy.core.errors import ProviderUnavailableError
from proxy.ports.jobs import Credential
from proxy.ports.provider import ProviderBatch
from proxy.services.access import Access


async def ask(
    access: Access,
    batch: Batch,
    request: Callable[[Credential, str], Awaitable[ProviderBatch]],
    provider_batch_id: str,
) -> ProviderBatch:
    """Retrieve or cancel a provider batch of `batch`, its own or a twin; return how it is then.

    Raises:
        ProviderError: if nobody may do that, it is not there, or the answer is about another.
    """
    news = await access.with_any_credential(batch, lambda key: request(key, provider_batch_id))
    if news.id != provider_batch_id:
        # Another's end would give our jobs back while they are computed, and its files would
        # be deleted as if they were ours.
        raise ProviderUnavailableError(
            f"asked for {provider_batch_id}, the provider answered {news.id}"
        )
    return news
