import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.compact_json import compact_json

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
)


@given(anything)
def test_what_is_written_says_the_same(value):
    assert json.loads(compact_json(value)) == value


@pytest.mark.parametrize("value", ["\ud800", {"\udfff": 1}, ["a", {"b": "x\ud83d"}]])
def test_half_a_surrogate_pair_is_written_and_comes_back(value):
    assert json.loads(compact_json(value)) == value


def test_it_is_short_and_in_utf_8():
    assert compact_json({"a": [1, "\u00e9"]}) == b'{"a":[1,"\xc3\xa9"]}'


@pytest.mark.parametrize("text", ["plain", "\ud800"])
def test_the_fallback_writes_what_json_has_no_form_for(text):
    class Strange:
        pass

    told = compact_json({"a": text, "b": Strange()}, fallback=lambda one: type(one).__name__)

    assert json.loads(told) == {"a": text, "b": "Strange"}


def test_without_a_fallback_it_is_an_error():
    class Strange:
        pass

    with pytest.raises((TypeError, ValueError)):
        compact_json(Strange())
