"""Which credential a provider is spoken to with, and what its refusal means."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

import structlog

from proxy.core.batch import Batch
from proxy.core.errors import CREDENTIAL_CODES, CredentialRefusedError, ProviderRejectedError
from proxy.core.ids import CredentialId
from proxy.core.lanes import BatchKey
from proxy.core.plan import PollPace
from proxy.core.refusals import code_of
from proxy.ports.clock import Clock
from proxy.ports.jobs import Credential, CredentialStore
from proxy.ports.provider import Provider
from proxy.ports.tally import Tally

log = structlog.get_logger()

T = TypeVar("T")

_CODE_CHARS: Final = 64
"""What is logged of a provider's code: what stands there is its own choice."""


class Access:
    """Providers by upstream, and the credentials to use them with."""

    def __init__(
        self,
        *,
        providers: Mapping[str, Provider],
        credentials: CredentialStore,
        clock: Clock,
        tally: Tally,
    ) -> None:
        self._providers = providers
        self._credentials = credentials
        self._clock = clock
        self._tally = tally

    def provider(self, upstream: str) -> Provider | None:
        """Return the batch API of `upstream`, if it has one."""
        return self._providers.get(upstream)

    def has_batches(self, upstream: str) -> bool:
        """Return whether `upstream` is configured here and has a batch API."""
        return upstream in self._providers

    def pace(self, key: BatchKey, usual: PollPace) -> PollPace:
        """Return how often to ask after batches of `key`: slower where the provider wants that."""
        provider = self._providers.get(key.upstream)
        if provider is None:
            return usual
        return usual.no_faster_than(provider.limits(key.endpoint).poll_floor)

    async def own(self, credential_id: CredentialId) -> Credential | None:
        """Return the credential to buy with: this very one, unless it is paused."""
        credential = await self._credentials.get(credential_id)
        if credential is None or credential.paused_at is not None:
            return None
        return credential

    async def pause(self, credential_id: CredentialId, refusal: CredentialRefusedError) -> None:
        """Pause the lane of a credential that the provider refused."""
        known = await self._credentials.get(credential_id)
        await self._credentials.pause(
            credential_id,
            at=self._clock.now(),
            status=refusal.status_code,
            body=refusal.body,
        )
        if known is not None and known.paused_at is not None:
            # Each poll of each of its batches is refused again.
            return
        # Where the provider gave no code, the refusal has ours.
        ours = refusal.code == CredentialRefusedError.code
        code = code_of(refusal.body) or (None if ours else refusal.code)
        self._tally.count("credential_paused", code=_counted(code, refusal.status_code))
        log.warning(
            "credential.paused",
            credential=credential_id,
            upstream=known.upstream if known is not None else None,
            status_code=refusal.status_code,
            code=code[:_CODE_CHARS] if code else None,
            hint="deferred jobs of this credential wait; replace the key or restore its account",
        )

    async def with_any_credential(
        self,
        batch: Batch,
        operation: Callable[[Credential], Awaitable[T]],
        *,
        may_pause: bool = True,
    ) -> T:
        """Do something with `batch` that costs nothing, with the first credential that may.

        A key may be revoked while its batches run. Others of the same owner at the same upstream
        often belong to the same project and still see them. A refusal of the batch's own key pauses
        it, unless `may_pause` is false: for what even a good key may not be allowed to do.

        Raises:
            CredentialRefusedError: if none is let in.
            ProviderError: if the operation failed otherwise; a rejection counts only with the
                batch's own key.
        """
        own = await self._credentials.get(batch.key.credential)
        if own is None:
            raise CredentialRefusedError(f"batch {batch.id}: its credential is not known any more")
        try:
            return await operation(own)
        except CredentialRefusedError as exc:
            refusal = exc
        if may_pause:
            await self.pause(own.id, refusal)
        for other in await self._credentials.of_owner(own.owner, own.upstream):
            if other.id == own.id:
                continue
            try:
                return await operation(other)
            except CredentialRefusedError:
                continue
            except ProviderRejectedError as exc:
                # Another project's key does not see the batch. Only what the
                # batch's own key says about it counts.
                log.debug("credential.skipped", batch_id=batch.id, code=exc.code)
        raise refusal


def _counted(code: str | None, status: int | None) -> str:
    """Return what to count a refusal under: one of few, whatever a provider makes up."""
    if code in CREDENTIAL_CODES:
        return code
    return "unknown" if status is None else str(status)
