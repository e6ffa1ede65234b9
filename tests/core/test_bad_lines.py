"""What becomes of the next batches where one was refused for a line of it."""

from datetime import timedelta
from typing import Any

import pytest

from proxy.core.bad_lines import ISOLATED_MOST, are_too_many_to_name, cut_sizes
from proxy.core.batch import Batch, BatchState
from proxy.core.batch_ends import INVALID_INPUT
from tests.helpers.factories import T0, make_batch, make_key


def refused(count: int, *, minutes_ago: float = 0, **changes: Any) -> Batch:
    ended_at = T0 - timedelta(minutes=minutes_ago)
    fields = {"error_code": INVALID_INPUT, "count": count, "ended_at": ended_at, **changes}
    return make_batch(state=BatchState.SETTLED, **fields)


@pytest.mark.parametrize(
    ("batches", "size"),
    [
        ([refused(50_000)], 3_125),
        ([refused(320), refused(20)], 1),
        ([refused(320), refused(20, minutes_ago=11)], 20),
        ([refused(7)], 1),
        ([refused(320, minutes_ago=11)], None),
        ([refused(320, error_line=3)], None),
        ([refused(32, error_code="input_too_large")], 2),
        ([refused(320, error_code="batch_failed")], 20),
        ([refused(20, error_code="batch_failed")], 10),
        ([refused(320, error_code="model_not_found")], None),
        ([refused(320, error_code="empty")], None),
        ([refused(320, error_code="batch_expired")], None),
        ([refused(320, error_code="insufficient_quota")], None),
        ([refused(320, error_code="token_limit_exceeded")], None),
        ([refused(320, error_code=None)], None),
        ([], None),
    ],
)
def test_a_batch_that_was_refused_for_an_unnamed_line_is_cut_into_parts(batches, size):
    sizes = cut_sizes(batches, now=T0)

    assert sizes == ({} if size is None else {batches[0].key: size})


@pytest.mark.parametrize(
    ("batches", "too_many"),
    [
        ([refused(320, error_line=3)] * ISOLATED_MOST, True),
        ([refused(320, error_line=3)] * (ISOLATED_MOST - 1), False),
        ([refused(320)] * ISOLATED_MOST, False),
        ([refused(320, error_line=3, minutes_ago=121)] * ISOLATED_MOST, False),
        ([refused(320, error_line=3, key=make_key(model="other"))] * ISOLATED_MOST, False),
        ([make_batch(error_line=3)] * ISOLATED_MOST, False),
    ],
)
def test_lines_are_named_in_turn_only_so_often(batches, too_many):
    assert are_too_many_to_name(batches, make_key(), now=T0) is too_many
