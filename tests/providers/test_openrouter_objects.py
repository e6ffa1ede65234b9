"""OpenRouter's batch objects, whole and defective."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from proxy.ports.provider import ProviderBatchState
from proxy.providers.openrouter_objects import provider_batch, read_batch

NOW = datetime(2026, 11, 23, tzinfo=UTC)
DAY = timedelta(days=1)
RUNNING, CANCELLING, ENDED = ProviderBatchState
BATCH: dict[str, Any] = {
    "id": "batch_1",
    "object": "batch",
    "status": "in_progress",
    "created_at": 1_795_420_800,
    "request_counts": {"total": 3, "completed": 0, "failed": 0},
    "error": None,
    "results": None,
}


def made(**changes: Any) -> Any:
    batch = read_batch({**BATCH, **changes})
    assert batch is not None
    return provider_batch(batch, window=DAY, now=NOW)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("validating", RUNNING),
        ("in_progress", RUNNING),
        ("finalizing", RUNNING),
        ("cancelling", CANCELLING),
        ("completed", ENDED),
        ("failed", ENDED),
        ("expired", ENDED),
        ("cancelled", ENDED),
        ("pondering", RUNNING),
        (None, RUNNING),
    ],
)
def test_a_batch_that_has_ended_is_its_own_result_file(word, state):
    batch = made(status=word)

    assert batch.state is state
    assert batch.output_file_ids == (("batch_1",) if state is ENDED else ())


def test_its_window_is_known_though_it_does_not_say():
    batch = made()

    assert batch.window_ends_at == batch.created_at + DAY


@pytest.mark.parametrize(
    ("counts", "count"),
    [({"total": 3}, 3), ({"total": 0}, None), ({"total": "3"}, None), (None, None), ([], None)],
)
def test_before_anything_is_counted_its_size_is_not_known(counts, count):
    assert made(request_counts=counts).count == count


@pytest.mark.parametrize("error", [{"message": "no such model"}, None, "x", {"message": 7}])
def test_a_batch_that_failed_says_so(error):
    batch = made(status="failed", error=error)

    assert batch.error_code == "batch_failed"
    told = isinstance(error, dict) and error["message"] == "no such model"
    assert batch.error_message == ("no such model" if told else None)


@pytest.mark.parametrize("junk", [None, [], {}, {"id": ""}, {"id": 7}])
def test_what_is_no_batch_is_none(junk):
    assert read_batch(junk) is None
