"""Batches and results of xAI, whole and defective."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from proxy.ports.provider import LineKind, ProviderBatchState
from proxy.providers.xai_objects import provider_batch, read_batch, result_line

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
RUNNING, CANCELLING, ENDED = ProviderBatchState
BATCH: dict[str, Any] = {
    "batch_id": "batch_1",
    "name": "batch-ours",
    "create_time": "2026-11-23",
    "expire_time": "2026-12-23",
    "cancel_time": None,
    "cancel_by_xai_message": None,
    "state": {"num_requests": 0, "num_pending": 0, "num_success": 0, "num_error": 0},
}
RESULTS = ("results:batch_1",)
STOPPED = {"cancel_time": "2026-11-23"}
REFUSED = {**STOPPED, "cancel_by_xai_message": "JSONL file validation failed: no."}


def made(*, now: datetime = NOW, **changes: Any) -> Any:
    batch = read_batch({**BATCH, **changes})
    assert batch is not None
    return provider_batch(batch, now=now)


def counts(
    requests: int, pending: int, success: int = 0, error: int = 0, cancelled: int = 0
) -> Any:
    names = ("num_requests", "num_pending", "num_success", "num_error", "num_cancelled")
    return dict(zip(names, (requests, pending, success, error, cancelled), strict=True))


@pytest.mark.parametrize(
    ("state", "more", "status", "means"),
    [
        # Its file is not read yet.
        (counts(0, 0), {}, "validating", RUNNING),
        (None, {}, "validating", RUNNING),
        ({}, {}, "validating", RUNNING),
        ("junk", {}, "validating", RUNNING),
        # Counted, and nothing else: none of it has come to anything.
        (counts(9, 0), {}, "validating", RUNNING),
        (counts(9, 9), {}, "in_progress", RUNNING),
        (counts(9, 1, 7, 1), {}, "in_progress", RUNNING),
        (counts(9, 0, 8, 1), {}, "completed", ENDED),
        (counts(9, 0, 0, 9), {}, "completed", ENDED),
        (counts(9, 0, 4, 0, 5), {}, "expired", ENDED),
        (counts(9, 5, 4), STOPPED, "cancelling", CANCELLING),
        (counts(9, 0, 4, 0, 5), STOPPED, "cancelled", ENDED),
        (counts(9, 5, 4, 0, 0), STOPPED, "cancelling", CANCELLING),
        # Stopped before its file was read.
        (counts(0, 0), STOPPED, "cancelled", ENDED),
        (counts(0, 0), REFUSED, "failed", ENDED),
        (counts(9, 0, 0, 0, 9), REFUSED, "failed", ENDED),
        # Not refused but stopped, having run.
        (counts(9, 0, 4, 0, 5), REFUSED, "cancelled", ENDED),
        (counts(9, 5, 4), REFUSED, "cancelling", CANCELLING),
        # Counts of none that are left out, and numbers that are written as text.
        ({"num_requests": 9, "num_success": 9}, {}, "completed", ENDED),
        ({"num_requests": 9, "num_success": 4}, {}, "in_progress", RUNNING),
        ({"num_requests": "9", "num_pending": "0", "num_success": "9"}, {}, "completed", ENDED),
        ({"num_requests": 9, "num_pending": None, "num_success": "x"}, {}, "in_progress", RUNNING),
    ],
)
def test_how_a_batch_stands_is_told_by_its_counts(state, more, status, means):
    batch = made(state=state, **more)

    assert (batch.status, batch.state) == (status, means)
    assert batch.output_file_ids == (() if status == "failed" else RESULTS)


def test_what_hangs_until_the_batch_expires_ends_with_it():
    hanging = {"state": counts(9, 2, 7)}
    expiry = datetime(2026, 12, 23, tzinfo=UTC)

    # A date may mean any time of its day.
    assert made(now=expiry + timedelta(hours=23), **hanging).state is RUNNING
    batch = made(now=expiry + timedelta(hours=24), **hanging)

    assert (batch.status, batch.state) == ("expired", ENDED)
    assert batch.output_file_ids == RESULTS
    assert made(now=expiry + timedelta(days=99), expire_time=None, **hanging).state is RUNNING


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (
            "JSONL file validation failed: Model grok-4.5 is not supported for batch processing.",
            "unsupported_model",
        ),
        ("JSONL file validation failed: Model grok-nope is not supported", "unsupported_model"),
        ("Your team 1db9 has either used all available credits or …", "insufficient_quota"),
        ("JSONL file validation failed: line 3 is no JSON.", "batch_failed"),
        ("JSONL file validation failed: of this model stop is not supported.", "batch_failed"),
    ],
)
def test_a_refused_input_says_whether_its_model_or_the_account_is_at_fault(message, code):
    batch = made(cancel_time="2026-11-23", cancel_by_xai_message=message)

    assert (batch.status, batch.error_code, batch.error_message) == ("failed", code, message)


@pytest.mark.parametrize(
    "told", ["2026-11-23T10:00:00.123456789Z", "2026-11-23", 1_795_392_000, "soon", None]
)
def test_times_are_moments_or_dates(told):
    batch = made(create_time=told, expire_time=told)

    known = {"soon": None, None: None}.get(told, batch.created_at)
    assert batch.created_at.date() == NOW.date()
    assert batch.window_ends_at == known


@pytest.mark.parametrize(
    "junk", [None, [], {}, {"batch_id": ""}, {"batch_id": 7}, {"id": "x"}, "x"]
)
def test_what_is_no_batch_is_none(junk):
    assert read_batch(junk) is None


@pytest.mark.parametrize("field", [name for name in BATCH if name != "batch_id"])
@pytest.mark.parametrize("junk", [[None, {"message": 3}], {"a": []}, True, ""])
def test_a_field_that_cannot_be_read_is_as_if_absent(field, junk):
    assert made(**{field: junk}).state is RUNNING


@pytest.mark.parametrize(
    "around",
    [
        b'{"batch_request_id":"a","batch_result":{"response":{"chat_get_completion":%b}}}',
        b' { "batch_request_id" : "a", "batch_result":{"response": {"chat_get_completion": %b}}}\n',
        (
            b'{"batch_result":{"response":{"chat_get_completion":%b},"error":null},'
            b'"batch_request_id":"a"}'
        ),
        (
            b'{"batch_request_id":"a","error_message":"","batch_result":{"error":null,"response":'
            b'{"a":[{"chat_get_completion":1}],"chat_get_completion":%b}}}'
        ),
    ],
)
def test_an_answer_is_cut_out_as_it_is(around):
    body = '{ "id":"x",  "choices": [ ], "text":"}}}é\\u0041", "usage":{"total_tokens":1}}'.encode()

    line = result_line(around % body)

    assert (line.kind, line.custom_id, line.status_code) == (LineKind.ANSWERED, "a", 200)
    assert line.body == body
    assert line.content == json.loads(body)


@pytest.mark.parametrize(
    ("result", "code"),
    [
        ({"error": "Model is not supported for batch processing"}, "batch_client_error"),
        ({"error": "The model failed."}, "batch_server_error"),
        ({"error": "The batch was cancelled."}, "batch_cancelled"),
        ({"error": "The request has expired."}, "batch_cancelled"),
        ({"error": "Incorrect API key provided: xa***yz."}, "invalid_api_key"),
        ({"error": {"code": 1, "message": "no"}}, "batch_cancelled"),
        ({"error": {"code": 3, "message": "boom"}}, "batch_client_error"),
        ({"error": {"code": 3, "message": "no status: cancelled"}}, "batch_client_error"),
        (
            {"error": {"code": 7, "message": "Content violates usage guidelines."}},
            "batch_client_error",
        ),
        ({"error": {"code": 7}}, "batch_server_error"),
        ({"error": {"code": 8, "message": "slow down"}}, "batch_server_error"),
        ({"error": {"code": "3", "message": "boom"}}, "batch_client_error"),
        ({"error": {"code": [], "message": []}}, "batch_server_error"),
        ({"error": [7]}, "batch_server_error"),
        ({"response": None, "error": "boom"}, "batch_server_error"),
    ],
)
def test_an_error_says_whether_asking_again_may_help(result, code):
    line = result_line(json.dumps({"batch_request_id": "a", "batch_result": result}).encode())

    assert (line.kind, line.custom_id, line.error_code) == (LineKind.NOT_EXECUTED, "a", code)


def test_an_error_may_stand_beside_the_result():
    line = result_line(b'{"batch_request_id":"a","error_message":"boom"}')

    assert (line.kind, line.error_code) == (LineKind.NOT_EXECUTED, "batch_server_error")


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b'{"batch_request_id":"a"}', "a"),
        (b'{"batch_request_id":"a","batch_result":null}', "a"),
        (b'{"batch_request_id":"a","batch_result":{"error":{}}}', "a"),
        (b'{"batch_request_id":"a","batch_result":{"response":{"chat_get_completion":7}}}', "a"),
        (b'{"batch_request_id":"a","batch_result":{"resp', "a"),
        (b'{"batch_request_id":7,"batch_result":{"error":"x"}}', None),
        (b"{", None),
        (b"[]", None),
    ],
)
def test_what_is_no_result_is_unreadable(raw, name):
    line = result_line(raw)

    assert (line.kind, line.custom_id) == (LineKind.UNREADABLE, name)
