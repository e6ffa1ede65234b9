"""Answers are pure functions of their question."""

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.sandbox.answers import answer_text, body_hash, clip, instance_of, tokens_in, unit_vector

DIGEST = body_hash({"model": "m"})


@pytest.mark.parametrize(
    "field", ["stream", "stream_options", "background", "background_options", "service_tier"]
)
def test_what_chooses_a_lane_is_not_part_of_the_question(field):
    assert body_hash({"model": "m", field: "x"}) == body_hash({"model": "m"})


def test_the_order_of_keys_is_not_part_of_the_question_but_values_are():
    assert body_hash({"a": 1, "b": 2}) == body_hash({"b": 2, "a": 1})
    assert body_hash({"a": 1}) != body_hash({"a": 2})
    assert body_hash({"a": [1, 2]}) != body_hash({"a": [2, 1]})


def test_choices_of_one_question_differ():
    assert answer_text(DIGEST, "q", choice=0) != answer_text(DIGEST, "q", choice=1)


@given(st.text())
def test_any_text_has_an_answer_and_a_size(text):
    assert answer_text(body_hash({"text": text}), text)
    assert (tokens_in(text) == 0) == (text == "")


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.integers(1, 50))
def test_a_clipped_text_is_a_start_of_the_whole_within_the_limit(text, limit):
    clipped, was_cut = clip(text, limit)

    assert text.startswith(clipped)
    assert tokens_in(clipped) <= limit
    assert was_cut == (clipped != text)


def test_a_vector_has_length_one():
    vector = unit_vector(DIGEST, 64)

    assert sum(x * x for x in vector) == pytest.approx(1)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "number"}}},
        {"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 2},
        {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        {"type": ["integer", "null"], "minimum": 3},
        {
            "type": "object",
            "properties": {"n": {"$ref": "#/$defs/n"}},
            "required": ["n"],
            "$defs": {"n": {"const": 5}},
        },
    ],
)
def test_an_instance_fits_its_schema(schema):
    jsonschema.validate(instance_of(schema, DIGEST), schema)


def test_a_recursive_schema_ends():
    schema = {"type": "object", "properties": {"next": {"$ref": "#"}}}

    assert isinstance(instance_of(schema, DIGEST), dict)
