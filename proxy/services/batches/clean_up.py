"""Delete what a settled batch left at its provider: its files, and those of its twins."""

from collections.abc import Awaitable
from datetime import timedelta
from typing import Final

import structlog

from proxy.core.batch import Batch
from proxy.core.errors import CredentialRefusedError, ProviderError, ProviderRejectedError
from proxy.ports.jobs import Credential
from proxy.ports.provider import Provider
from proxy.services.access import Access
from proxy.services.batches.at_provider import ask
from proxy.services.batches.twins import SWEEP_FOR
from proxy.services.ground import Ground

log = structlog.get_logger()

GIVE_UP_DELETING_AFTER: Final = timedelta(days=1)
"""How long a provider that is in trouble is asked to delete: most delete by themselves, and
no batch stays unsettled for ever."""


class Cleaner:
    """Cleans up behind one batch after the other. May be repeated: what is gone is no error."""

    def __init__(self, ground: Ground, *, access: Access) -> None:
        self._ground = ground
        self._access = access

    async def clean_up(self, batch: Batch, provider: Provider) -> None:
        """Delete our files at the provider, then what we needed to read them.

        Raises:
            ProviderError: if it is worth another try later.
        """
        try:
            # Its own first: a twin may never answer.
            for file_id in (batch.input_file_id, *batch.output_file_ids):
                if file_id:
                    await self._delete(batch, provider, file_id)
            for file_id in await self._files_of_twins(batch, provider):
                await self._delete(batch, provider, file_id)
        except ProviderError as exc:
            if not self._is_given_up(batch):
                raise
            log.warning("file.kept", batch_id=batch.id, code=exc.code)
        await self._ground.batches.drop_items(batch.id)

    async def _files_of_twins(self, batch: Batch, provider: Provider) -> list[str]:
        names: list[str] = []
        for twin_id in batch.twins:
            try:
                twin = await ask(self._access, batch, provider.retrieve, twin_id)
            except (CredentialRefusedError, ProviderRejectedError) as exc:
                log.warning("file.kept", batch_id=batch.id, code=exc.code)
            else:
                names += twin.output_file_ids
        return names

    async def _delete(self, batch: Batch, provider: Provider, file_id: str) -> None:
        def delete(credential: Credential) -> Awaitable[None]:
            return provider.delete_file(credential, file_id)

        try:
            # A key may be let in for everything but this.
            await self._access.with_any_credential(batch, delete, may_pause=False)
        except (CredentialRefusedError, ProviderRejectedError) as exc:
            # Files expire at the provider anyway; a key that is gone must not
            # keep a batch from being settled.
            log.warning("file.kept", batch_id=batch.id, code=exc.code)

    def _is_given_up(self, batch: Batch) -> bool:
        assert batch.harvested_at is not None
        begun = batch.harvested_at
        if batch.ambiguous_since is not None:
            # Until then twins were looked for.
            begun = max(begun, batch.ambiguous_since + SWEEP_FOR)
        return self._ground.now() >= begun + GIVE_UP_DELETING_AFTER
