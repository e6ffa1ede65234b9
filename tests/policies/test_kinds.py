import pytest

from policies.kinds import Record, dict_of, list_of, one_or_many, scalar, text, word
from policies.tree import BadNodeError
from tests.policies.facts import tree

NUMBER = scalar("a number", (int, float), {"type": "number"})
POINT = Record(
    {"x": NUMBER, "y": NUMBER, "name": text()},
    lambda values, _: tuple(values.values()),
    required=("x",),
).kind()


def refused(kind, data):
    with pytest.raises(BadNodeError) as caught:
        kind.read(tree(data))
    return [complaint.message for complaint in caught.value.complaints]


def test_a_scalar_is_of_its_type_exactly():
    assert NUMBER.read(tree(1.5)) == 1.5
    for data in (True, "1", None, [1]):
        assert refused(NUMBER, data)[0].endswith("is not a number")
    assert refused(NUMBER, {}) == ["a mapping is not a number"]


def test_a_text_has_bounds():
    assert text(longest=3).read(tree("abc")) == "abc"
    assert "1 to 3 characters" in refused(text(longest=3), "abcd")[0]
    assert "1 to 3 characters" in refused(text(longest=3), "")[0]


def test_a_word_is_one_of_some():
    assert word("a", "b").read(tree("b")) == "b"
    assert refused(word("a", "b"), "c") == ["'c' is refused: allowed: a, b"]
    assert refused(word("a", "b"), 1) == ["'1' is not one of a, b"]


def test_one_or_many_is_always_many_and_never_none():
    assert one_or_many(text()).read(tree("a")) == ("a",)
    assert one_or_many(text()).read(tree(["a", "b"])) == ("a", "b")
    assert refused(one_or_many(text()), []) == ["the list is empty"]


def test_a_list_tells_all_that_is_wrong_in_it():
    assert list_of(NUMBER).read(tree([])) == ()
    assert len(refused(list_of(NUMBER), ["a", 1, "b"])) == 2
    assert refused(list_of(NUMBER), 1) == ["'1' is not a list"]


def test_a_free_mapping_checks_names_and_values():
    def short(name):
        if len(name) > 2:
            raise ValueError("too long")
        return name.lower()

    kind = dict_of(short, NUMBER, allowed="a mapping of names")

    assert kind.read(tree({"A": 1, "b": 2})) == {"a": 1, "b": 2}
    assert refused(kind, {"A": 1, "a": 2}) == ["two of these names mean the same"]
    assert refused(kind, {"abc": 1, "abcd": 2})[0] == (
        "the name 'abc' is refused: too long (this is a mapping of names)"
    )
    assert len(refused(kind, {"a": "x", "b": "y"})) == 2
    assert refused(kind, 5) == ["'5' is not a mapping of names"]


def test_a_record_tells_all_that_is_wrong_in_it():
    assert POINT.read(tree({"x": 1, "name": "n"})) == (1, "n")
    assert refused(POINT, []) == ["a list is not a mapping with any of x, y, name"]
    assert refused(POINT, {"nam": 1, "zzz": 2, "y": "a", "name": ""}) == [
        "unknown key 'nam' (did you mean 'name'?); allowed: x, y, name",
        "unknown key 'zzz'; allowed: x, y, name",
        "'x' is missing here",
        "'a' is not a number",
        "'' is refused: it must have 1 to 256 characters",
    ]


def test_a_record_can_ask_for_something_at_least():
    kind = Record({"a": NUMBER}, lambda values, _: dict(values), least=1).kind()

    assert refused(kind, {}) == ["at least one is needed here of a"]
    assert kind.schema["minProperties"] == 1


def test_what_a_conversion_refuses_is_a_complaint():
    def positive(value):
        if value <= 0:
            raise ValueError("it is not positive")
        return value

    assert NUMBER.then(positive).read(tree(1)) == 1
    assert refused(NUMBER.then(positive), 0) == ["'0' is refused: it is not positive"]


def test_a_kind_describes_itself_to_editors():
    assert POINT.schema == {
        "type": "object",
        "properties": {
            "x": {"type": "number"},
            "y": {"type": "number"},
            "name": {"type": "string", "minLength": 1, "maxLength": 256},
        },
        "additionalProperties": False,
        "required": ["x"],
    }
    assert text(pattern="[a-z]+").schema["pattern"] == "^(?:[a-z]+)$"
    assert NUMBER.noted("how many").schema["description"] == "how many"
