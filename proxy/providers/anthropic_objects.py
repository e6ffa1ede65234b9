"""Anthropic's batch objects as they come, read leniently and made ours.

Source: types of the Anthropic SDK 2.12, `MessageBatch`.
"""

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field

from proxy.ports.provider import ProviderBatch, ProviderBatchState
from proxy.providers.lenient import Id, Lenient, Moment, Word, read_as
from proxy.providers.statuses import read_status

_STATES: Final = {
    "in_progress": ProviderBatchState.RUNNING,
    "canceling": ProviderBatchState.CANCELLING,
    "ended": ProviderBatchState.ENDED,
}


def _counts(value: Any) -> dict[str, int]:
    counts = value.items() if isinstance(value, dict) else ()
    return {name: count for name, count in counts if type(count) is int and count >= 0}


class MessageBatchObject(Lenient):
    """The fields of a MessageBatch that we depend on."""

    id: Id
    processing_status: Word = None
    created_at: Moment = None
    expires_at: Moment = None
    request_counts: Annotated[dict[str, int], BeforeValidator(_counts)] = Field(
        default_factory=dict
    )


def read_batch(value: object) -> MessageBatchObject | None:
    """Read a MessageBatch, or return nothing if it is none."""
    return read_as(MessageBatchObject, value)


def provider_batch(batch: MessageBatchObject, *, now: datetime) -> ProviderBatch:
    """Return the batch in our words.

    The results of a batch are named by its own ID; there is no
    file apart from it, and no status says whether any request succeeded.
    """
    status, state = read_status(
        batch.processing_status, _STATES, provider="anthropic", provider_batch_id=batch.id
    )
    return ProviderBatch(
        id=batch.id,
        state=state,
        status=status,
        created_at=batch.created_at or now,
        window_ends_at=batch.expires_at,
        count=sum(batch.request_counts.values()) if batch.request_counts else None,
        output_file_ids=(batch.id,) if state is ProviderBatchState.ENDED else (),
    )
