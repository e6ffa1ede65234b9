"""A provider's word for the state of a batch, read as ours."""

from collections.abc import Mapping

import structlog

from proxy.ports.provider import ProviderBatchState

log = structlog.get_logger()

_WORD_CHARS = 64
"""What is kept of a word that nobody knows."""


def read_status(
    word: str | None,
    states: Mapping[str, ProviderBatchState],
    *,
    provider: str,
    provider_batch_id: str,
) -> tuple[str, ProviderBatchState]:
    """Return the word in lower case, as most send it, and what it means.

    Providers add words without notice. One that we do not know means that the batch
    runs: reading it as an end would release jobs that are still being computed, and buy
    them twice.
    """
    status = (word or "").strip().lower()[:_WORD_CHARS]
    state = states.get(status)
    if state is None:
        log.warning(
            "provider.unknown_status",
            provider=provider,
            provider_batch_id=provider_batch_id,
            status=status,
        )
        state = ProviderBatchState.RUNNING
    return status, state
