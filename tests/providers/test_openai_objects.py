import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ports.provider import ProviderBatchState
from proxy.providers.openai_objects import provider_batch, read_batch, read_file, read_page
from tests.providers.kit import T0

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["data", "id", "code", "line"]), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    ["status", "created_at", "expires_at", "output_file_id", "error_file_id", "errors",
     "metadata", "request_counts", "usage", "filename", "bytes"]
)  # fmt: skip


@given(st.dictionaries(FIELDS, JSON))
def test_whatever_a_field_holds_a_batch_with_an_id_is_a_batch(fields):
    batch = read_batch({"id": "batch_1", **fields})

    assert batch is not None
    ours = provider_batch(batch, {}, provider="test", now=T0)
    assert ours.id == "batch_1"
    assert ours.state is ProviderBatchState.RUNNING
    assert ours.created_at.utcoffset() is not None
    assert all(file.strip() for file in ours.output_file_ids)


@given(SCALARS)
def test_a_line_that_is_blamed_is_counted_from_one_or_is_none(line):
    batch = read_batch({"id": "batch_1", "errors": {"data": [{"line": line}]}})

    assert batch is not None
    blamed = provider_batch(batch, {}, provider="test", now=T0).error_line
    assert blamed is None or blamed >= 1


@given(st.dictionaries(FIELDS, JSON))
def test_whatever_a_field_holds_a_file_with_an_id_is_a_file(fields):
    file = read_file({"id": "file-1", **fields})

    assert file is not None
    assert file.id == "file-1"


@given(JSON)
def test_what_is_no_object_is_none(value):
    named = value.get("id") if isinstance(value, dict) else None
    is_object = isinstance(named, str) and named.strip(".") != ""

    assert (read_batch(value) is not None) == is_object
    assert (read_file(value) is not None) == is_object


@pytest.mark.parametrize("name", [".", "..", "..."])
def test_an_id_that_leads_to_another_path_is_none(name):
    assert read_batch({"id": name}) is None
    assert read_file({"id": name}) is None
    batch = read_batch({"id": "batch_1", "output_file_id": name})
    assert batch is not None
    assert provider_batch(batch, {}, provider="test", now=T0).output_file_ids == ()


@given(JSON, st.booleans())
def test_a_page_is_read_whatever_its_entries_are(value, may_be_bare):
    page = read_page(value, may_be_bare=may_be_bare)

    has_envelope = isinstance(value, dict) and (
        isinstance(value.get("data"), list) or (value.get("object"), value.get("data")) == _NO_DATA
    )
    assert (page is not None) == (has_envelope or (may_be_bare and isinstance(value, list)))


_NO_DATA = ("list", None)


def test_a_list_without_entries_is_an_empty_one_and_anything_else_is_none():
    for empty in ({"object": "list", "total": 0}, {"object": "list", "data": None}):
        page = read_page(empty)
        assert page is not None
        assert (page.entries, page.has_more, page.last_id) == ([], False, None)
    for other in ({}, {"object": "error"}, {"data": None}, {"object": "list", "data": {}}):
        assert read_page(other) is None


def test_the_cursor_of_a_page_is_its_last_entry_that_has_an_id():
    page = read_page({"data": [{"id": "a"}, {"id": "b"}, {"id": ""}, 7], "has_more": True})

    assert page is not None
    assert (page.last_id, page.has_more, len(page.entries)) == ("b", True, 3)
