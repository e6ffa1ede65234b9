"""Which calls of a batch are neighbours."""

import random
from itertools import pairwise, product

import pytest

from proxy.core.affinity import CHARS, DIGITS, LEVELS, affinity
from proxy.core.dialects import Shape

TOOLS = [{"type": "function", "function": {"name": "look_up"}}]


def said(text, role="user"):
    return {"role": role, "content": text}


def turn(text):
    return {"role": "user", "parts": [{"text": text}]}


def call(shape: Shape, system: str, *messages: str, **more: object) -> dict[str, object]:
    """Return the body of a call that says this, in the words of each API."""
    match shape:
        case Shape.CHAT:
            return {"messages": [said(system, "system"), *map(said, messages)]} | more
        case Shape.RESPONSES:
            return {"instructions": system, "input": [*map(said, messages)]} | more
        case Shape.MESSAGES:
            return {"system": system, "messages": [*map(said, messages)]} | more
        case _:
            system_turn = {"parts": [{"text": system}]}
            return {"systemInstruction": system_turn, "contents": [*map(turn, messages)]} | more


CONVERSATIONS = [Shape.CHAT, Shape.RESPONSES, Shape.MESSAGES, Shape.GENERATE]


@pytest.mark.parametrize("shape", CONVERSATIONS)
def test_sorted_calls_change_each_beginning_as_rarely_as_possible(shape: Shape) -> None:
    calls = [
        (system, first, second)
        for system, first, second in product(("be terse", "be kind"), "abc", "123")
    ]
    random.Random(7).shuffle(calls)

    ordered = sorted(calls, key=lambda one: affinity(call(shape, *one), shape))

    def changes(length: int) -> int:
        beginnings = [one[:length] for one in ordered]
        return sum(here != there for here, there in pairwise(beginnings))

    # Two system prompts, three first messages under each, three second ones under those.
    assert [changes(length) for length in (1, 2, 3)] == [1, 5, 17]


@pytest.mark.parametrize("shape", CONVERSATIONS)
def test_tools_come_before_everything(shape: Shape) -> None:
    plain = affinity(call(shape, "be terse", "a"), shape)
    with_tools = affinity(call(shape, "be terse", "a", tools=TOOLS), shape)

    assert plain[:DIGITS] != with_tools[:DIGITS]


@pytest.mark.parametrize("shape", CONVERSATIONS)
def test_what_callers_say_about_caching_and_sampling_changes_no_place(shape: Shape) -> None:
    usual = affinity(call(shape, "be terse", "a"), shape)

    for more in ({"temperature": 0}, {"prompt_cache_key": "k"}, {"cachedContent": "c"}):
        assert affinity(call(shape, "be terse", "a", **more), shape) == usual


def test_parts_and_a_cache_mark_on_them_are_text_like_any_other() -> None:
    parts = [{"type": "text", "text": "be terse", "cache_control": {"type": "ephemeral"}}]
    marked = {"system": parts, "messages": [said("a")]}

    usual = affinity(call(Shape.MESSAGES, "be terse", "a"), Shape.MESSAGES)
    assert affinity(marked, Shape.MESSAGES) == usual


def test_developer_and_system_prompts_are_one_beginning() -> None:
    one = {"messages": [said("be terse", "system"), said("and kind", "developer"), said("a")]}
    other = {"messages": [said("be terse", "developer"), said("and kind", "system"), said("b")]}

    first, second = (affinity(each, Shape.CHAT) for each in (one, other))
    assert first[:DIGITS] == second[:DIGITS]
    assert first != second


def test_long_texts_that_begin_alike_are_neighbours() -> None:
    shared = "x" * CHARS
    one, other = ({"messages": [said(shared + end)]} for end in "ab")

    assert affinity(one, Shape.CHAT) == affinity(other, Shape.CHAT)
    assert affinity({"prompt": shared + "a"}, Shape.COMPLETIONS) == affinity(
        {"prompt": shared + "b"}, Shape.COMPLETIONS
    )


def test_an_input_of_one_text_and_contents_of_one_turn_count_too() -> None:
    one, other = (affinity({"input": text}, Shape.RESPONSES) for text in "ab")
    assert one != other
    one, other = (affinity({"contents": turn(text)}, Shape.GENERATE) for text in "ab")
    assert one != other


def test_its_length_is_bounded_and_without_a_cache_there_is_none() -> None:
    long = {"messages": [said(str(n)) for n in range(100)]}

    assert len(affinity(long, Shape.CHAT)) == LEVELS * DIGITS
    assert affinity({"input": ["a"]}, Shape.EMBEDDINGS) == ""


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": None},
        {"messages": [1, None, "x"]},
        {"messages": [said(None), said([None, 1, {"text": 2}])]},
        {"input": 5, "contents": 7, "system": {"a": 1}, "prompt": [[1, 2]]},
        {"messages": [said("\ud83d")]},
    ],
)
@pytest.mark.parametrize("shape", Shape)
def test_whatever_a_body_holds_it_has_a_place(body, shape) -> None:
    assert set(affinity(body, shape)) <= set("0123456789abcdef")
