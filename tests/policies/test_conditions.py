import pytest

from policies.conditions import Range, Values, When
from policies.globs import Patterns
from tests.policies.facts import make_facts, matches, rule_set


def test_both_bounds_of_a_range_belong_to_it():
    assert [Range(1, 3).contains(n) for n in (0.9, 1, 3, 3.1)] == [False, True, True, False]
    assert Range(min=1).contains(10**30)
    assert Range(max=1).contains(-(10**30))


@pytest.mark.parametrize(
    ("range_", "text"),
    [(Range(1, 3), "min 1, max 3"), (Range(2, 2), "2"), (Range(max=0.5), "max 0.5")],
)
def test_a_range_reads_as_it_is_written(range_, text):
    assert str(range_) == text


@pytest.mark.parametrize(
    ("wanted", "yes", "no"),
    [
        ("night*", ["nightly"], ["daily", 1, True, None, ["nightly"], {"nightly": 1}]),
        ("!daily", ["nightly"], ["daily", 1, True, None, []]),
        ("*", ["", "x", 0, False, [], {}], [None]),
        (1, [1, 1.0], [2, "1", True, None]),
        (True, [True], [False, 1, "true", None]),
        ({"min": 0.5}, [0.5, 7], [0, "7", True]),
        ([True, "auto", {"max": 0}], [True, "auto", 0, -3], [False, "none", 1]),
        (["*", "!secret"], ["x"], ["secret"]),
    ],
)
def test_kinds_of_value_are_never_converted(wanted, yes, no):
    found = [matches(make_facts({"f": value}), when={"body": {"f": wanted}}) for value in yes + no]

    assert found == [True] * len(yes) + [False] * len(no)


def test_values_read_as_they_are_written():
    values = Values(Patterns(("a*", "!b")), (Range(1, 1), Range(min=2)), frozenset({True}))

    assert str(values) == "a* or !b or 1 or min 2 or true"


@pytest.mark.parametrize(
    ("when", "says"),
    [
        ({}, False),
        ({"stream": False}, False),
        ({"stream": True}, True),
        ({"stream": [True, False]}, True),
        ({"body": {"stream": True}}, True),
        ({"body": {"stream": False}}, False),
        ({"body": {"other": True}}, False),
    ],
)
def test_a_rule_says_that_it_means_streams(when, says):
    assert rule_set(when=when).compiled[0].rule.when.says_stream is says
    assert not When().says_stream
