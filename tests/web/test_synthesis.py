"""What holds for the streams of every API."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.dialects import Shape
from proxy.web.synthesis import UnreadableResultError, synthesise
from proxy.web.synthesis.parts import (
    PIECE_MIN_CHARS,
    PIECES_MAX,
    pieces,
    pieces_with_tokens,
    spells,
)
from tests.web.desk import chat_completion


@given(st.text(max_size=20_000))
def test_pieces_are_the_text_and_never_too_many(text):
    found = list(pieces(text))

    assert "".join(found) == text
    assert len(found) <= PIECES_MAX
    assert all(len(piece) >= PIECE_MIN_CHARS for piece in found[:-1])


@given(st.lists(st.text(min_size=1, max_size=3), max_size=600))
def test_tokens_stay_with_their_pieces(texts):
    tokens: list[dict[str, object]] = [{"token": text} for text in texts]

    found = list(pieces_with_tokens(tokens))

    assert [token for _, group in found for token in group] == tokens
    assert all(piece == "".join(str(one["token"]) for one in group) for piece, group in found)
    assert len(found) <= PIECES_MAX


@pytest.mark.parametrize(
    ("tokens", "is_spelling"),
    [
        ([{"token": "ab"}, {"token": "c"}], True),
        ([{"token": "ab"}], False),
        ([{"token": None}, {"token": "abc"}], False),
        (["abc"], False),
        ([], False),
        (None, False),
    ],
)
def test_tokens_spell_a_text_only_if_they_are_exactly_it(tokens, is_spelling):
    assert spells(tokens, "abc") is is_spelling


@pytest.mark.parametrize(
    "shape", [Shape.EMBEDDINGS, Shape.MODERATIONS, Shape.OCR, Shape.CLASSIFICATIONS]
)
def test_an_api_without_streams_has_none_to_synthesise(shape):
    with pytest.raises(UnreadableResultError):
        synthesise(shape, b"{}", include_usage=False)


@pytest.mark.parametrize(
    ("shape", "result"),
    [
        (Shape.MESSAGES, {"content": [{"type": ["text"], "text": "a"}], "usage": {}}),
        (Shape.RESPONSES, {"status": ["completed"], "output": [{"type": {"a": 1}}]}),
    ],
)
def test_a_kind_that_is_no_word_is_carried_like_one_to_come(shape, result):
    events = synthesise(shape, json.dumps(result).encode(), include_usage=False)

    assert b'"type":["text"]' in b"".join(events) or b'"type":{"a":1}' in b"".join(events)


def test_no_line_of_an_event_can_be_broken_by_its_text():
    content = chat_completion("a\u2028b\u2029c\x85d\r\ne\ud800f")

    for event in synthesise(Shape.CHAT, json.dumps(content).encode(), include_usage=False):
        lines = event.decode().splitlines()
        assert len(lines) == 2
        assert lines[1] == ""


def test_what_every_event_repeats_does_not_make_a_stream_of_gigabytes(monkeypatch):
    monkeypatch.setattr("proxy.web.synthesis._ROOM_BYTES", 0)
    choices = [{"index": 0, "message": {"content": "x" * 6_000}}]
    long = {"id": "x" * 20_000, "choices": choices}
    assert synthesise(Shape.CHAT, json.dumps({**long, "id": "x"}).encode(), include_usage=False)

    with pytest.raises(UnreadableResultError, match="far longer"):
        synthesise(Shape.CHAT, json.dumps(long).encode(), include_usage=False)
