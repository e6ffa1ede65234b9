"""Fields of providers' objects: read, or as if absent."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from proxy.providers.lenient import Lenient, Loose, Moment, Number, Word, read_as

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)


class Thing(Lenient):
    id: str
    at: Moment = None
    name: Word = None
    count: Number = None
    rest: Loose = Field(default_factory=dict)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10)
VALUES = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(max_size=2), SCALARS)


@given(st.dictionaries(st.sampled_from(["at", "name", "count", "rest", "unknown"]), VALUES))
def test_whatever_a_field_holds_the_object_is_read(fields):
    assert read_as(Thing, {"id": "a", **fields}) is not None


@pytest.mark.parametrize("value", [None, 7, "a", [], {}, {"id": None}, {"id": 7}])
def test_what_lacks_the_one_field_that_is_needed_is_none(value):
    assert read_as(Thing, value) is None


@pytest.mark.parametrize(
    "value",
    [AT.timestamp(), "2026-11-01T12:00:00Z", "2026-11-01T13:00:00+01:00", "2026-11-01T12:00:00"],
)
def test_times_come_as_numbers_or_texts_and_are_in_utc(value):
    read = read_as(Thing, {"id": "a", "at": value})

    assert read is not None
    assert (read.at, read.at and read.at.tzinfo) == (AT, UTC)


@pytest.mark.parametrize("value", [0, "", True, "soon", 1e300, "0001-01-01T00:00:00+02:00"])
def test_a_time_that_says_nothing_is_absent(value):
    read = read_as(Thing, {"id": "a", "at": value})

    assert read is not None
    assert read.at is None
