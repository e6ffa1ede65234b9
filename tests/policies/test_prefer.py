from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.prefer import NO_PREFERENCES, Preferences, read_preferences


def seconds(count):
    return timedelta(seconds=count)


@pytest.mark.parametrize(
    ("fields", "respond_async", "wait"),
    [
        (["respond-async"], True, None),
        (["Respond-Async"], True, None),
        (["respond-async, wait=20"], True, 20),
        (["respond-async,wait=20"], True, 20),
        (["wait=20, respond-async"], True, 20),
        (["respond-async", "wait=20"], True, 20),
        (['respond-async; foo="a, wait=9", wait="20"'], True, 20),
        (['respond-async=""'], True, None),
        (["respond-async ; a ; b=c"], True, None),
        (["wait = 20"], False, 20),
        (["wait=20"], False, 20),
        (["wait=20, wait=30"], False, 20),
        (["wait=20", "wait=30"], False, 20),
        (["return=minimal, handling=lenient; x=y, respond-async"], True, None),
        ([", ,respond-async,,"], True, None),
        (['x="\\", respond-async"'], False, None),
        (['wait="2\\0"'], False, 20),
        (["wait=0"], False, 0),
        (["wait=999999999"], False, 600),
    ],
)
def test_preferences_are_read_by_the_grammar_of_rfc_7240(fields, respond_async, wait):
    expected = Preferences(respond_async, None if wait is None else seconds(wait))

    assert read_preferences(fields) == expected


@pytest.mark.parametrize(
    "field",
    [
        "", "respond-async=yes", "respond-async wait=3", "wait", "wait=", "wait=-1", "wait=1.5",
        "wait=1e3", "wait=²", '"respond-async"', "=respond-async", "wait==3", 'wait="3',
        "respond-asynchronously", "wait=9999999999", "respond-async" + " " * 600,
    ],
)  # fmt: skip
def test_what_is_unknown_or_unreadable_is_ignored(field):
    assert read_preferences([field]) == NO_PREFERENCES


def test_an_unreadable_preference_does_not_hide_its_neighbours():
    assert read_preferences(["=, respond-async, a b c, wait=5"]) == Preferences(True, seconds(5))


@pytest.mark.parametrize(
    ("preferences", "applied"),
    [
        (Preferences(), None),
        (Preferences(wait=seconds(5)), None),
        (Preferences(respond_async=True), "respond-async"),
        (Preferences(True, seconds(20)), "respond-async, wait=20"),
    ],
)
def test_what_was_applied_is_what_was_understood(preferences, applied):
    assert preferences.applied == applied


@given(st.lists(st.text(st.sampled_from('",;= \\\taw-respond1é'), max_size=80), max_size=4))
def test_no_field_is_ever_an_error(fields):
    read_preferences(fields)


def test_many_fields_are_read_up_to_the_length_of_one():
    wish = "respond-async, wait=5"
    more = [f"x={'y' * 100}"] * 5

    assert read_preferences([wish, *more]).wait == timedelta(seconds=5)
    assert read_preferences([*more, wish]) == NO_PREFERENCES
