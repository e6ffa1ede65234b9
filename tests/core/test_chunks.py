"""Every item is in one chunk, and no chunk is too large."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.chunks import chunked


@given(st.lists(st.integers()), st.integers(min_value=1, max_value=10))
def test_only_the_last_chunk_is_shorter(items: list[int], size: int) -> None:
    chunks = list(chunked(items, size))

    assert [item for chunk in chunks for item in chunk] == items
    assert all(len(chunk) == size for chunk in chunks[:-1])
    assert all(0 < len(chunk) <= size for chunk in chunks)
