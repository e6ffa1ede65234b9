import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.tree import BadNodeError, Complaint, Mark, bad, described, plain
from tests.policies.facts import tree

DATA = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=8,
)


@given(DATA)
def test_a_tree_gives_back_its_data(data):
    assert plain(tree(data)) == data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "nothing"),
        ("x", "'x'"),
        (5, "'5'"),
        ("x" * 100, f"'{'x' * 60}…'"),
        ([1], "a list"),
        ({}, "a mapping"),
    ],
)
def test_a_node_is_described_in_a_few_words(data, words):
    assert described(tree(data)) == words
    assert str(bad(tree(data), "a number")) == f"{words} is not a number"


def test_an_error_says_all_complaints():
    error = BadNodeError([Complaint(Mark(1, 1), "this"), Complaint(Mark(2, 1), "that")])

    assert str(error) == "this; that"
