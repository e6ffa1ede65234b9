"""Usage is read from what was kept of an answer, whatever its form, and in bounded memory."""

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import zstandard

from proxy.core.usage import Tokens, tokens_of
from proxy.services.traffic.kept import (
    COMPRESSED_BYTES,
    HEAD_BYTES,
    TAIL_BYTES,
    Bought,
    Kept,
    Room,
    kept_for,
    usage_in,
)

USAGE = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
CHAT = json.dumps(
    {
        "id": "chatcmpl-1",
        "choices": [{"message": {"content": 'They said "usage": {"prompt_tokens": 999}.'}}],
        "usage": {**USAGE, "prompt_tokens_details": {"cached_tokens": 4}},
        "service_tier": "default",
    }
).encode()
CHAT_BOUGHT = Bought({**USAGE, "prompt_tokens_details.cached_tokens": 4}, "default")

MESSAGES = b"".join(
    b"data: %b\n\n" % json.dumps(event).encode()
    for event in (
        {
            "type": "message_start",
            "message": {
                "usage": {
                    "input_tokens": 10,
                    "cache_read_input_tokens": 100,
                    "cache_creation_input_tokens": 0,
                    "output_tokens": 1,
                    "service_tier": "standard",
                }
            },
        },
        {"type": "content_block_delta", "delta": {"text": "long " * 20_000}},
        {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 77}},
    )
)
CHAT_STREAM = (
    b'data: {"choices":[{"delta":{"content":"hi"}}],"usage":null}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":5}}\n\n'
    b"data: [DONE]\n\n"
)
GEMINI_STREAM = (
    b'data: {"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":1}}\r\n\r\n'
    b'data: {"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":30}}\r\n\r\n'
)


def kept(
    pieces: Iterable[bytes],
    headers: Mapping[str, str] | None = None,
    *,
    framed: bool = False,
    room: Room | None = None,
) -> Kept:
    fields = {"content-type": "application/json; charset=utf-8", **(headers or {})}
    made = kept_for(fields, framed=framed, room=room or Room())
    assert made is not None
    for piece in pieces:
        made.add(piece)
    return made


def split(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def chunked(data: bytes, size: int) -> bytes:
    chunks = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(one), one) for one in split(data, size))
    return chunks.replace(b";ext=1", b"") + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 7, 64, 10_000_000])
@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        (CHAT, Tokens(input=12, output=5, cached=4)),
        (CHAT_STREAM, Tokens(input=12, output=5)),
        (MESSAGES, Tokens(input=110, output=77, cached=100)),
        (GEMINI_STREAM, Tokens(input=9, output=30)),
    ],
    ids=["chat", "chat-stream", "messages-stream", "gemini-stream"],
)
@pytest.mark.parametrize("framed", [False, True])
def test_usage_is_found_in_any_pieces(body: bytes, tokens: Tokens, size: int, framed: bool) -> None:
    wire = chunked(body, 1_000) if framed else body

    bought = usage_in(kept(split(wire, size), framed=framed))

    assert tokens_of(bought.usage) == tokens


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(CHAT)),
        ("deflate", zlib.compress(CHAT)),
        ("deflate", zlib.compress(CHAT)[2:-4]),
        ("zstd", zstandard.compress(CHAT)),
        ("identity", CHAT),
    ],
)
@pytest.mark.parametrize("framed", [False, True])
def test_a_compressed_answer_is_unpacked(encoding: str, packed: bytes, framed: bool) -> None:
    wire = chunked(packed, 50) if framed else packed

    found = kept(split(wire, 33), {"content-encoding": encoding}, framed=framed)

    assert usage_in(found) == CHAT_BOUGHT


def test_the_tier_of_an_answer_of_gemini_stands_in_its_usage() -> None:
    answer = b'{"usageMetadata":{"promptTokenCount":9,"serviceTier":"flex"}}'

    assert usage_in(kept([answer])).tier == "flex"


def test_what_a_model_writes_is_not_taken_for_usage() -> None:
    assert usage_in(kept([CHAT])) == CHAT_BOUGHT


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "image/png"},
        {"content-type": ""},
        {"content-encoding": "br"},
        {"content-encoding": "gzip, gzip"},
    ],
)
def test_what_cannot_be_read_is_not_kept(headers: dict[str, str]) -> None:
    fields = {"content-type": "application/json", **headers}

    assert kept_for(fields, framed=False, room=Room()) is None


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {}),
        (b"{}", {}),
        (b'{"usage": null}', {}),
        (b'{"usage": {"prompt_tok', {}),
        (b'{"usage": {"prompt_tokens": "12"}}', {}),
        (b"no gzip", {"content-encoding": "gzip"}),
        (b"no zstd", {"content-encoding": "zstd"}),
        (b"\xff\xff", {"content-encoding": "deflate"}),
    ],
)
def test_what_says_nothing_is_unknown_and_never_zero(body: bytes, headers: dict[str, str]) -> None:
    assert not usage_in(kept([body], headers)).usage


def test_usage_within_usage_without_end_is_unknown() -> None:
    deep = b'{"usage":' * 800_000
    packed = gzip.compress(deep)
    assert len(packed) < COMPRESSED_BYTES

    assert usage_in(kept([packed], {"content-encoding": "gzip"})) == Bought()
    assert usage_in(kept([deep[:4_000]])) == Bought()


def test_a_broken_frame_is_unknown() -> None:
    broken = kept([b"zz\r\n{}"], {"content-encoding": "gzip"}, framed=True)

    assert usage_in(broken) == Bought()


def test_a_long_answer_takes_no_more_than_its_bounds() -> None:
    long = kept(split(b"x" * 3_000_000 + CHAT, 1_500))

    assert len(long.head) + len(long.tail) <= HEAD_BYTES + 2 * TAIL_BYTES
    assert not long.is_whole
    assert usage_in(long) == CHAT_BOUGHT


def test_a_piece_that_is_larger_than_the_bounds_leaves_its_end() -> None:
    long = kept([b"x" * 3_000_000 + CHAT])

    assert len(long.tail) == TAIL_BYTES
    assert usage_in(long) == CHAT_BOUGHT


def test_a_compressed_answer_beyond_its_bound_is_given_up() -> None:
    room = Room(COMPRESSED_BYTES)
    long = kept(
        split(b"x" * (COMPRESSED_BYTES + 1), 60_000), {"content-encoding": "gzip"}, room=room
    )

    long.add(b"more")

    assert (len(long.head), long.taken) == (0, 0)
    assert room.take(COMPRESSED_BYTES)
    assert usage_in(long) == Bought()


def test_what_unpacks_to_more_than_its_bound_is_cut() -> None:
    bomb = gzip.compress(b"0" * 50_000_000 + CHAT)
    assert len(bomb) < COMPRESSED_BYTES

    assert usage_in(kept([bomb], {"content-encoding": "gzip"})) == Bought()


def test_all_answers_together_have_one_room() -> None:
    room = Room(1_000)
    first = kept([b"x" * 800], room=room)
    second = kept([b"x" * 800], room=room)

    assert (first.taken, second.taken) == (800, 0)
    assert not second.head

    first.give_back()
    assert len(kept([b"x" * 800], room=room).head) == 800


def test_of_what_is_no_usage_a_part_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    class Counting(json.JSONDecoder):
        def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
            read.append(len(s) - idx)
            return super().raw_decode(s, idx)

    monkeypatch.setattr("proxy.services.traffic.kept._DECODER", Counting())
    nested = b'{"usage":' * 200 + b'{"a":[' + b"1," * 500_000
    whole = gzip.compress(nested + b'"usage":{"prompt_tokens":3,"completion_tokens":1}}')

    bought = usage_in(kept([whole], {"content-encoding": "gzip"}))

    assert bought.usage == {"prompt_tokens": 3, "completion_tokens": 1}
    assert sum(read) < 2_000_000
