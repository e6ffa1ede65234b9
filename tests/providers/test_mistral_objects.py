"""Batch jobs of Mistral, whole and defective."""

from datetime import UTC, datetime
from typing import Any

import pytest

from proxy.ports.provider import ProviderBatchState
from proxy.providers.mistral_objects import provider_batch, read_job

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RUNNING, CANCELLING, ENDED = ProviderBatchState
JOB: dict[str, Any] = {"id": "b5f0-1", "status": "RUNNING", "created_at": 1_795_420_800}


def made(**changes: Any) -> Any:
    job = read_job({**JOB, **changes})
    assert job is not None
    return provider_batch(job, now=NOW)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("QUEUED", RUNNING),
        ("RUNNING", RUNNING),
        ("CANCELLATION_REQUESTED", CANCELLING),
        ("SUCCESS", ENDED),
        ("FAILED", ENDED),
        ("TIMEOUT_EXCEEDED", ENDED),
        ("CANCELLED", ENDED),
        ("PONDERING", RUNNING),
        (None, RUNNING),
        (7, RUNNING),
    ],
)
def test_a_status_is_read_and_an_unknown_one_means_that_the_job_runs(word, state):
    batch = made(status=word)

    assert batch.state is state
    assert batch.status == (word.lower() if isinstance(word, str) else "")


@pytest.mark.parametrize(
    ("fields", "files"),
    [
        ({"output_file": "o", "error_file": "e"}, ("o", "e")),
        ({"output_file": "", "error_file": "e"}, ("e",)),
        ({"output_file": None, "error_file": None, "completed_requests": 3}, ("inline:b5f0-1",)),
        ({"output_file": None, "error_file": None, "completed_requests": 0}, ()),
        ({"output_file": None, "error_file": None, "succeeded_requests": 3}, ("inline:b5f0-1",)),
        (
            {"error_file": "e", "completed_requests": 3, "succeeded_requests": 2},
            ("inline:b5f0-1", "e"),
        ),
        ({"error_file": "e", "completed_requests": 3, "succeeded_requests": 0}, ("e",)),
        ({}, ()),
    ],
)
def test_results_are_files_or_the_job_itself(fields, files):
    assert made(status="CANCELLED", **fields).output_file_ids == files
    assert made(status="RUNNING", **fields).output_file_ids == ()


@pytest.mark.parametrize(
    ("done", "code"), [({}, "batch_failed"), ({"completed_requests": 4}, None)]
)
def test_only_a_job_that_ran_nothing_failed_as_a_whole(done, code):
    errors = [{"message": "no such model", "count": 3}, {"message": "x"}]

    batch = made(status="FAILED", errors=errors, **done)

    assert (batch.error_code, batch.error_message) == (code, "no such model")


@pytest.mark.parametrize("junk", [None, [], {}, {"id": ""}, {"id": 7}, "x"])
def test_what_is_no_job_is_none(junk):
    assert read_job(junk) is None


@pytest.mark.parametrize(
    "field", ["errors", "metadata", "total_requests", "succeeded_requests", "created_at"]
)
@pytest.mark.parametrize("junk", ["x", 7.5, [None, {"message": 3}], {"a": []}, None])
def test_a_field_that_cannot_be_read_is_as_if_absent(field, junk):
    assert made(**{field: junk}).id == "b5f0-1"
