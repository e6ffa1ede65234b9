"""MessageBatch objects, whole and defective."""

from datetime import UTC, datetime
from typing import Any

import pytest

from proxy.ports.provider import ProviderBatchState
from proxy.providers.anthropic_objects import provider_batch, read_batch

NOW = datetime(2026, 11, 23, tzinfo=UTC)
WHOLE: dict[str, Any] = {
    "id": "msgbatch_1",
    "type": "message_batch",
    "processing_status": "in_progress",
    "request_counts": {
        "processing": 3, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0,
    },
    "created_at": "2026-11-23T08:00:00Z",
    "expires_at": "2026-11-24T08:00:00Z",
    "ended_at": None,
    "results_url": None,
}  # fmt: skip


def made(**changes: Any) -> Any:
    batch = read_batch({**WHOLE, **changes})
    assert batch is not None
    return provider_batch(batch, now=NOW)


def test_times_counts_and_state_are_read():
    batch = made()

    assert (batch.state, batch.count) == (ProviderBatchState.RUNNING, 3)
    assert batch.created_at == datetime(2026, 11, 23, 8, tzinfo=UTC)
    assert batch.window_ends_at == datetime(2026, 11, 24, 8, tzinfo=UTC)
    assert batch.output_file_ids == ()


def test_an_ended_batch_is_its_own_result_file():
    counts = {"processing": 0, "succeeded": 1, "errored": 1, "canceled": 1, "expired": 0}

    batch = made(processing_status="ended", request_counts=counts)

    assert (batch.state, batch.count) == (ProviderBatchState.ENDED, 3)
    assert batch.output_file_ids == ("msgbatch_1",)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("canceling", ProviderBatchState.CANCELLING),
        ("pondering", ProviderBatchState.RUNNING),
        (None, ProviderBatchState.RUNNING),
    ],
)
def test_a_word_that_is_not_known_means_that_it_runs(word, state):
    assert made(processing_status=word).state is state


def test_what_is_missing_is_as_if_absent():
    batch = made(created_at="soon", request_counts=None, expires_at=None)

    assert (batch.created_at, batch.count, batch.window_ends_at) == (NOW, None, None)


@pytest.mark.parametrize("value", [None, [], {}, {"id": ""}, {"id": 1}])
def test_what_is_no_batch_is_nothing(value):
    assert read_batch(value) is None
