import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from proxy.core.loose_json import loose_json
from tests.core.test_compact_json import anything


def _whole(value):
    """Return the value as a reader of UTF-16 has it that knows no halves."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_whole(one) for one in value]
    if isinstance(value, dict):
        return {_whole(name): _whole(one) for name, one in value.items()}
    return value


@given(anything)
def test_what_is_read_is_what_was_written_but_for_halves_of_pairs(value):
    assert loose_json(json.dumps(value).encode()) == _whole(value)


@given(st.lists(st.sampled_from(["\\ud83d", "\\uDE00", "\\\\", "\\n", "\\u0041", "ud83d", "é"])))
def test_halves_and_pairs_are_told_apart_however_they_are_written(parts):
    raw = '"{}"'.format("".join(parts)).encode()

    assert loose_json(raw) == _whole(json.loads(raw))


def test_what_is_read_can_be_written_as_utf_8():
    assert loose_json(b'{"a\\udfff":["cut \\ud83d"]}') == {"a\ufffd": ["cut \ufffd"]}


HALF = b'"\\ud83d"'


@pytest.mark.parametrize("raw", [
    b"", b"<html>", b"[%b" % HALF, b"[%b,]" % HALF, b'["\\ud8zz",%b]' % HALF,
    b"\\ud83d", b'"\\ud83d',
    b"[%b,01]" % HALF, b'[%b,"a\nb"]' % HALF, b"[%b,\xff]" % HALF, b'[%b,"\xed\xa0\xbd"]' % HALF,
    b"\xef\xbb\xbf%b" % HALF, HALF.decode().encode("utf-16"), b"[%b,%b]" % (HALF, b"1" * 5_000),
    b"[" * 201 + HALF + b"]" * 201, b"[%b," % HALF + b"[" * 100_000,
])  # fmt: skip
def test_nothing_else_is_taken_that_the_parser_refuses(raw):
    with pytest.raises(ValueError, match=r" at line \d+ column \d+$"):
        from_json(raw)
    with pytest.raises(ValueError, match=r" at line \d+ column \d+$"):
        loose_json(raw)


def test_as_deep_as_the_parser_goes_halves_are_read_too():
    assert loose_json(b"[" * 200 + HALF + b"]" * 200)
