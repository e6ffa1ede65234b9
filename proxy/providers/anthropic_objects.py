"""Anthropic's batch objects as they come, read leniently and made ours.

Source: types of the Anthropic SDK 2.12, `MessageBatch`.
"""

from datetime import datetime
from typing import Annotated, Any, Final

import structlog
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from proxy.ports.provider import ProviderBatch, ProviderBatchState
from proxy.providers.openai_objects import Moment, Word

log = structlog.get_logger()

_STATES: Final = {
    "in_progress": ProviderBatchState.RUNNING,
    "canceling": ProviderBatchState.CANCELLING,
    "ended": ProviderBatchState.ENDED,
}

_UNKNOWN_WORD_CHARS: Final = 64


def _counts(value: Any) -> dict[str, int]:
    counts = value.items() if isinstance(value, dict) else ()
    return {name: count for name, count in counts if type(count) is int and count >= 0}


class MessageBatchObject(BaseModel):
    """The fields of a MessageBatch that we depend on."""

    model_config = ConfigDict(extra="ignore")

    id: str
    processing_status: Word = None
    created_at: Moment = None
    expires_at: Moment = None
    request_counts: Annotated[dict[str, int], BeforeValidator(_counts)] = {}


def read_batch(value: object) -> MessageBatchObject | None:
    """Read a MessageBatch, or return nothing if it is none."""
    try:
        batch = MessageBatchObject.model_validate(value)
    except ValidationError:
        return None
    return batch if batch.id else None


def provider_batch(batch: MessageBatchObject, *, now: datetime) -> ProviderBatch:
    """Return the batch in our words.

    An unknown status means that the batch runs: reading it as an end would buy its
    requests again. The results of a batch are named by its own ID; there is no
    file apart from it, and no status says whether any request succeeded.
    """
    status = (batch.processing_status or "").strip()[:_UNKNOWN_WORD_CHARS]
    state = _STATES.get(status)
    if state is None:
        log.warning(
            "provider.unknown_status",
            provider="anthropic",
            provider_batch_id=batch.id,
            status=status,
        )
        state = ProviderBatchState.RUNNING
    return ProviderBatch(
        id=batch.id,
        state=state,
        status=status,
        created_at=batch.created_at or now,
        window_ends_at=batch.expires_at,
        count=sum(batch.request_counts.values()) if batch.request_counts else None,
        output_file_ids=(batch.id,) if state is ProviderBatchState.ENDED else (),
    )
