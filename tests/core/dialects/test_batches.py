"""What a row says of a provider's batches, and which window is asked for."""

from datetime import timedelta

import pytest

from proxy.core.dialects import DIALECTS, BatchApi, BatchWire, Mark, window_for

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
BATCHED = [dialect for dialect in DIALECTS.values() if dialect.batch is not None]


@pytest.mark.parametrize("dialect", BATCHED, ids=lambda dialect: dialect.name)
def test_every_batch_api_has_endpoints_bounds_and_ascending_windows(dialect):
    api = dialect.batch

    assert any(endpoint.batched for endpoint in dialect.endpoints.values())
    assert api.max_requests > 0
    assert api.max_line_bytes < api.max_bytes
    assert list(api.windows) == sorted(set(api.windows))
    assert api.windows[0] > timedelta(0)


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)
def test_what_has_no_batch_api_batches_no_endpoint(dialect):
    if dialect.batch is None:
        assert not any(endpoint.batched for endpoint in dialect.endpoints.values())


def api(*windows: timedelta, is_promise: bool = False) -> BatchApi:
    return BatchApi(
        wire=BatchWire.FILES, max_requests=1, max_bytes=1, windows=windows, is_promise=is_promise
    )


@pytest.mark.parametrize(
    ("slack", "window"),
    [
        (HOUR, DAY),
        (DAY, DAY),
        (DAY + HOUR, 7 * DAY),
        (30 * DAY, 7 * DAY),
        (-HOUR, DAY),
        (None, 7 * DAY),
    ],
)
def test_a_window_outlasts_the_deadline_where_it_only_ends_the_batch(slack, window):
    assert window_for(api(DAY, 7 * DAY), slack) == window


@pytest.mark.parametrize(
    ("slack", "window"),
    [(HOUR / 2, HOUR), (HOUR, HOUR), (DAY - HOUR, HOUR), (DAY, DAY), (2 * DAY, DAY), (None, DAY)],
)
def test_a_window_that_is_a_promise_ends_before_the_deadline_and_is_no_shorter(slack, window):
    assert window_for(api(HOUR, DAY, is_promise=True), slack) == window


def test_a_batch_is_known_again_by_our_name_unless_its_row_says_otherwise():
    assert api(DAY).mark is Mark.METADATA
    assert api(DAY).can_cancel
