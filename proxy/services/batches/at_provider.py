"""Ask after a provider batch, or stop it, with whatever key of ours may."""

from collections.abc import Awaitable

from proxy.core.batch import Batch
from proxy.core.errors import ProviderUnavailableError
from proxy.ports.jobs import Credential
from proxy.ports.provider import Provider, ProviderBatch
from proxy.services.access import Access


async def retrieve(
    access: Access, batch: Batch, provider: Provider, provider_batch_id: str
) -> ProviderBatch:
    """Return how a provider batch of `batch` is: its own, or a twin.

    Raises:
        ProviderError: if nobody may read it, it is not there, or the answer is about another.
    """

    def ask(credential: Credential) -> Awaitable[ProviderBatch]:
        return provider.retrieve(credential, provider_batch_id)

    return _the_one(await access.with_any_credential(batch, ask), provider_batch_id)


async def cancel(
    access: Access, batch: Batch, provider: Provider, provider_batch_id: str
) -> ProviderBatch:
    """Tell the provider to stop it, and return how it is then.

    Raises:
        ProviderError: as `retrieve`.
    """

    def stop(credential: Credential) -> Awaitable[ProviderBatch]:
        return provider.cancel(credential, provider_batch_id)

    return _the_one(await access.with_any_credential(batch, stop), provider_batch_id)


def _the_one(news: ProviderBatch, asked: str) -> ProviderBatch:
    """Return what was answered about a batch, if it is the batch that was asked for.

    Another's end would give our jobs back while they are computed, and its files would be
    deleted as if they were ours.
    """
    if news.id != asked:
        raise ProviderUnavailableError(f"asked for {asked}, the provider answered {news.id}")
    return news
