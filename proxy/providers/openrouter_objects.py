"""OpenRouter's batch objects as they come, read leniently and made ours.

Source: types of OpenRouter's Python SDK, `BatchObject` and `BatchListItem`. They are
OpenAI's with other ends: no files, since the results are in the batch, and one error.
"""

from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator

from proxy.ports.provider import ProviderBatch, ProviderBatchState
from proxy.providers import _wire
from proxy.providers.lenient import Id, Lenient, Moment, Word, read_as
from proxy.providers.openai_objects import STATES
from proxy.providers.statuses import read_status


def _total(value: Any) -> int | None:
    total = value.get("total") if isinstance(value, dict) else None
    # Nothing is counted before the validation is over.
    return total if type(total) is int and total > 0 else None


def _message(value: Any) -> str | None:
    message = value.get("message") if isinstance(value, dict) else None
    return message if isinstance(message, str) and message else None


class BatchObject(Lenient):
    """The fields of a batch that we depend on."""

    id: Id
    status: Word = None
    created_at: Moment = None
    request_counts: Annotated[int | None, BeforeValidator(_total)] = None
    error: Annotated[str | None, BeforeValidator(_message)] = None


def read_batch(value: object) -> BatchObject | None:
    """Read a batch, or return nothing if it is none."""
    return read_as(BatchObject, value)


def provider_batch(batch: BatchObject, *, window: timedelta, now: datetime) -> ProviderBatch:
    """Return the batch in our words; an unknown status means that it runs.

    Its results are named by its own ID.
    """
    status, state = read_status(
        batch.status, STATES, provider="openrouter", provider_batch_id=batch.id
    )
    created_at = batch.created_at or now
    return ProviderBatch(
        id=batch.id,
        state=state,
        status=status,
        created_at=created_at,
        window_ends_at=created_at + window,
        count=batch.request_counts,
        output_file_ids=(batch.id,) if state is ProviderBatchState.ENDED else (),
        error_code="batch_failed" if status == "failed" else None,
        error_message=_wire.shown(batch.error),
    )
