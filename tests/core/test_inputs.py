"""How many embedding calls may share a batch."""

import json

import pytest

from proxy.core.inputs import CALL_INPUTS_MAX, first_part, inputs_of, next_part

MOST = 50_000


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("a text", 1),
        (["one", "two", "three"], 3),
        ([1, 2, 3], 1),
        ([[1, 2], [3]], 2),
        ([], 1),
        (None, 1),
        ({"text": "odd"}, 1),
    ],
)
def test_texts_and_lists_of_tokens_are_counted(given, inputs):
    assert inputs_of(json.dumps({"model": "m", "input": given}).encode()) == inputs


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7"])
def test_what_cannot_be_counted_is_one(body):
    assert inputs_of(body) == 1


def test_the_first_part_fits_whatever_its_calls_carry():
    assert first_part(MOST) == 24
    assert first_part(MOST) * CALL_INPUTS_MAX <= MOST
    assert first_part(10) == 1


def _filled(each: int, *, waiting: int) -> tuple[int, int]:
    """Fill a batch with calls of `each` inputs; return how many it holds, and in how many parts."""
    count, parts = min(first_part(MOST), waiting), 1
    while count < waiting and (more := next_part(count, count * each, MOST)):
        count, parts = min(count + more, waiting), parts + 1
    return count, parts


@pytest.mark.parametrize("each", [1, 2, 7, 100, 999, CALL_INPUTS_MAX])
def test_calls_that_are_alike_fill_a_batch_in_few_parts(each):
    count, parts = _filled(each, waiting=60_000)

    assert MOST * 0.85 <= count * each <= MOST
    assert parts <= 12


def test_a_batch_takes_all_that_wait_where_they_fit():
    assert _filled(1, waiting=20_000)[0] == 20_000


def test_a_full_batch_takes_no_more():
    assert next_part(24, MOST, MOST) == 0
    assert next_part(24, MOST + 1, MOST) == 0
    assert next_part(1, 3 * MOST, MOST) == 0
