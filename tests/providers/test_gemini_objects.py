"""Gemini's operations as they may come, and what they mean."""

from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from proxy.core.batch_ends import TOO_MANY_TOKENS
from proxy.ports.provider import ProviderBatch, ProviderBatchState
from proxy.providers.gemini_objects import (
    WINDOW,
    line_of,
    provider_batch,
    read_file,
    read_operation,
    read_page,
)

NOW = datetime(2026, 1, 2, tzinfo=UTC)
CREATED = "2026-01-01T00:00:00.123456Z"


def batch(state: str | None = None, *, stats: Any = None, **fields: Any) -> ProviderBatch:
    metadata = {"state": state, "createTime": CREATED, "batchStats": stats}
    kept = {name: value for name, value in metadata.items() if value is not None}
    operation = read_operation({"name": "batches/b1", "metadata": kept, **fields})
    assert operation is not None
    return provider_batch(operation, now=NOW)


@pytest.mark.parametrize("prefix", ["BATCH_STATE_", "JOB_STATE_", ""])
@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("UNSPECIFIED", ProviderBatchState.RUNNING),
        ("PENDING", ProviderBatchState.RUNNING),
        ("RUNNING", ProviderBatchState.RUNNING),
        ("CANCELLING", ProviderBatchState.CANCELLING),
        ("SUCCEEDED", ProviderBatchState.ENDED),
        ("PARTIALLY_SUCCEEDED", ProviderBatchState.ENDED),
        ("FAILED", ProviderBatchState.ENDED),
        ("CANCELLED", ProviderBatchState.ENDED),
        ("EXPIRED", ProviderBatchState.ENDED),
    ],
)
def test_every_state_is_known_as_the_api_and_as_its_sdk_writes_it(prefix, word, state):
    read = batch(prefix + word)

    assert (read.state, read.status) == (state, word.lower())
    assert read.output_file_ids == (("batches/b1",) if state is ProviderBatchState.ENDED else ())


@pytest.mark.parametrize("state", ["BATCH_STATE_PONDERING", "x" * 500, "", None])
def test_a_state_that_is_not_known_means_that_it_runs(state):
    with structlog.testing.capture_logs() as logs:
        read = batch(state)

    assert read.state is ProviderBatchState.RUNNING
    assert len(read.status) <= 64
    assert [entry["event"] for entry in logs] == ["provider.unknown_status"]


def test_an_operation_that_is_done_has_ended_whatever_its_state_is_called():
    assert batch("BATCH_STATE_ENLIGHTENED", done=True).state is ProviderBatchState.ENDED


def test_counts_are_read_as_text_and_as_numbers():
    assert batch("BATCH_STATE_RUNNING", stats={"requestCount": "12"}).count == 12
    assert batch("BATCH_STATE_RUNNING", stats={"requestCount": 12}).count == 12
    assert batch("BATCH_STATE_RUNNING", stats={"requestCount": "many"}).count is None
    assert batch("BATCH_STATE_RUNNING", stats={"requestCount": True}).count is None


def test_times_are_the_providers_and_the_window_is_two_days():
    read = batch("BATCH_STATE_RUNNING")

    assert read.created_at == datetime(2026, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)
    assert read.window_ends_at == read.created_at + WINDOW


def test_a_time_beyond_all_others_is_none():
    value = {"name": "batches/1", "metadata": {"createTime": "9999-12-31T23:59:59Z"}}
    operation = read_operation(value)
    assert operation is not None

    assert provider_batch(operation, now=NOW).created_at == NOW


@pytest.mark.parametrize(
    ("state", "stats", "code"),
    [
        ("EXPIRED", {"requestCount": "5", "pendingRequestCount": "5"}, "batch_expired"),
        ("CANCELLED", {"requestCount": "5"}, "batch_cancelled"),
        # Something ran, or nobody can tell: it may have been paid for.
        ("EXPIRED", {"requestCount": "5", "successfulRequestCount": "1"}, None),
        ("CANCELLED", {"requestCount": "5", "failedRequestCount": "1"}, None),
        ("EXPIRED", None, None),
        ("SUCCEEDED", {"requestCount": "5"}, None),
    ],
)
def test_only_counts_prove_that_a_batch_without_results_bought_nothing(state, stats, code):
    error = {"code": 13, "message": "cancelled"}

    assert batch(f"BATCH_STATE_{state}", stats=stats, error=error).error_code == code


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        ({"code": 3, "message": "bad"}, "INVALID_ARGUMENT", None),
        ({"code": 3, "message": "Invalid value in line 7 of the file"}, "INVALID_ARGUMENT", 7),
        ({"code": 8, "message": "quota"}, TOO_MANY_TOKENS, None),
        ({"code": 8, "message": "prepayment credits are depleted"}, "insufficient_quota", None),
        ({"code": 7, "details": [{"reason": "BILLING_DISABLED"}]}, "BILLING_DISABLED", None),
        ({"code": 10**30}, "UNKNOWN", None),
        ({}, "UNKNOWN", None),
    ],
)
def test_a_failed_batch_says_why(error, code, line):
    read = batch("BATCH_STATE_FAILED", error=error, done=True)

    assert (read.error_code, read.error_line) == (code, line)


def test_a_failed_batch_with_results_is_read_like_any_other():
    metadata = {"state": "BATCH_STATE_FAILED", "output": {"responsesFile": "files/f"}}
    operation = read_operation({"name": "batches/b", "metadata": metadata, "error": {"code": 13}})
    assert operation is not None

    assert operation.responses_file == "files/f"
    assert provider_batch(operation, now=NOW).error_code is None


@pytest.mark.parametrize("name", ["", "x", "batches/", "batches/a/b", "batches/a?b", "files/a", 7])
def test_what_has_no_batchs_name_is_no_batch(name):
    assert read_operation({"name": name}) is None


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("Unknown name \"x\" at 'batch.input_config.requests.requests[3].request'", 4),
        ("Failed at line 12: no such field", 12),
        ("Row 2 is broken", 2),
        ("line 0", None),
        ("Request contains an invalid argument.", None),
        ("the headline 3 is", None),
        (None, None),
    ],
)
def test_the_line_at_fault_is_read_wherever_it_is_named(message, line):
    assert line_of(message) == line


def test_files_and_pages_are_read_leniently():
    file = read_file({"name": "files/a", "displayName": "x", "sizeBytes": "9", "state": "ACTIVE"})
    empty, more = read_page({}, "files"), read_page({"files": [1], "nextPageToken": "t"}, "files")

    assert file is not None
    assert (file.name, file.display_name, file.size) == ("files/a", "x", 9)
    assert read_file({"name": "batches/a"}) is None
    assert empty is not None
    assert (empty.entries, empty.next_token) == ([], None)
    assert more is not None
    assert (more.entries, more.next_token) == ([1], "t")
    assert read_page([], "files") is None
    assert read_page({"files": {}}, "files") is None


@pytest.mark.parametrize("junk", [None, 7, "x", [1], {"requestCount": [1]}])
@pytest.mark.parametrize("field", ["done", "metadata", "error", "batchStats", "state", "output"])
def test_a_field_that_cannot_be_read_is_as_if_absent(field, junk):
    inner = {"state": "BATCH_STATE_RUNNING", "displayName": "ours", "createTime": CREATED}
    operation: dict[str, Any] = {"name": "batches/b1", "metadata": inner}
    holder = operation if field in ("done", "metadata", "error") else inner
    holder[field] = junk

    read = read_operation(operation)

    assert read is not None
    found = provider_batch(read, now=NOW)
    assert (found.id, found.state) == ("batches/b1", ProviderBatchState.RUNNING)
    assert field == "metadata" or read.metadata.display_name == "ours"
