from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstreams.body import BodyFraming, ChunkFraming, CloseFraming, LengthFraming


def chunked(*, keep: bool) -> ChunkFraming:
    return ChunkFraming(keep=keep, max_trailer_bytes=64)


def feed(framing: BodyFraming, pieces: list[bytes]) -> bytes:
    return b"".join(framing.feed(piece) for piece in pieces)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def written(chunks: list[bytes], trailer: bytes = b"") -> bytes:
    framed = [b"%X;x=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks if chunk]
    return b"".join(framed) + b"0\r\n" + trailer + b"\r\n"


bodies = st.lists(st.binary(max_size=20) | st.sampled_from([b"\r\n", b"0\r\n\r\n", b"\r", b"\n"]))
places = st.lists(st.integers(0, 500), max_size=8)


@given(bodies, places, st.booleans())
def test_chunks_are_read_alike_however_they_are_cut(chunks, where, keep):
    wire = written(chunks, b"X-T: 1\r\nx-u:\r\n")
    framing = chunked(keep=keep)

    out = feed(framing, cut(wire, where))

    assert framing.done
    assert not framing.broken
    assert not framing.surplus
    assert out == (wire if keep else b"".join(chunks))
    assert framing.body_bytes == len(b"".join(chunks))
    assert framing.trailers == (() if keep else ((b"X-T", b"1"), (b"x-u", b"")))


@given(bodies)
def test_chunks_that_come_one_by_one_are_handed_on_one_by_one(chunks):
    framing = chunked(keep=True)
    for chunk in chunks:
        wire = written([chunk])[: -len(b"0\r\n\r\n")]
        assert framing.feed(wire) == wire
    assert framing.body_bytes == len(b"".join(chunks))
    assert not framing.done

    assert framing.feed(b"0\r\n\r\n") == b"0\r\n\r\n"
    assert framing.done
    assert not framing.surplus
    assert framing.feed(b"3\r\nabc\r\n") == b""
    assert framing.surplus
    assert framing.body_bytes == len(b"".join(chunks))


@pytest.mark.parametrize("wire", [b"3\r\nabcd\r\n", b"4\r\nabc\r\n", b"3\r\nabcXX", b"3\nabc\r\n"])
def test_a_piece_that_is_nearly_one_chunk_is_none(wire):
    framing = chunked(keep=True)

    assert framing.feed(wire) != wire


@given(bodies, places, st.integers(1, 500))
def test_a_beginning_of_chunks_is_never_a_whole_body(chunks, where, missing):
    wire = written(chunks)
    wire = wire[: max(0, len(wire) - missing)]
    framing = chunked(keep=True)

    out = feed(framing, cut(wire, where))

    assert not framing.done
    assert not framing.end()
    # What is held back is a line at most; what went on is a beginning.
    assert wire.startswith(out)


@given(bodies, places, st.binary(min_size=1, max_size=9))
def test_what_follows_the_end_is_no_part_of_the_body(chunks, where, more):
    wire = written(chunks)
    framing = chunked(keep=True)

    out = framing.feed(wire + more)

    assert out == wire
    assert framing.done
    assert framing.surplus


@pytest.mark.parametrize(
    "wire",
    [
        b"zz\r\n",
        b"\r\nabc",
        b"-1\r\n",
        b"+1\r\na\r\n",
        b"0x1\r\na\r\n",
        b"1_0\r\n",
        b" 1\r\na\r\n",
        b"1\na\n",
        b"1\r\nab\r\n",
        b"1\r\na\n0\r\n\r\n",
        b"1\r\na0\r\n\r\n",
        b"1;\x00\r\na\r\n",
        b"1;a\nb\r\na\r\n",
        b"ffffffffffffffff\r\n",
        b"1 2\r\n",
        b"0\r\nX T: 1\r\n\r\n",
        b"0\r\n folded\r\n\r\n",
        b"0\r\nX: a\rb\r\n\r\n",
        b"0\r\n\n",
        b"0\r\nX: " + b"x" * 100 + b"\r\n\r\n",
        b"0\r\nX: " + b"x" * 100,
        b"0\r\n" + b"X: 1\r\n" * 20 + b"\r\n",
        b"1;" + b"x" * 5000,
        b"1;" + b"x" * 5000 + b"\r\na\r\n",
    ],
)
@pytest.mark.parametrize("by", [1, 10_000], ids=["byte by byte", "at once"])
def test_chunks_that_could_be_read_in_two_ways_are_broken(wire, by):
    framing = chunked(keep=True)
    framing.feed(b"3\r\nabc\r\n")

    for at in range(0, len(wire), by):
        framing.feed(wire[at : at + by])

    assert framing.broken
    assert not framing.done


def test_padded_sizes_are_taken():
    framing = chunked(keep=False)

    assert framing.feed(b"3  \r\nabc\r\n0\t\r\n\r\n") == b"abc"
    assert framing.done


@given(st.binary(max_size=30), st.binary(max_size=5), places)
def test_a_length_is_counted_down_however_it_is_cut(body, more, where):
    framing = LengthFraming(len(body))
    pieces = cut(body + more, where)

    out = feed(framing, [piece for piece in pieces if piece])

    assert out == body
    assert framing.done
    assert framing.end()
    assert framing.body_bytes == len(body)
    assert framing.surplus == bool(more)


def test_a_length_that_is_not_reached_is_no_whole_body():
    framing = LengthFraming(3)

    framing.feed(b"ab")

    assert not framing.done
    assert not framing.end()


def test_a_body_without_framing_ends_with_its_connection_only():
    framing = CloseFraming()

    assert framing.feed(b"0\r\n\r\n") == b"0\r\n\r\n"
    assert not framing.done
    assert framing.end()
    assert framing.done


def test_trailers_are_put_together_once_at_the_end():
    framing = ChunkFraming(keep=False, max_trailer_bytes=1_000_000)
    trailers = [b"name-%d: %d\r\n" % (number, number) for number in range(1_000)]

    framing.feed(b"0\r\n" + b"".join(trailers))
    # Not with each of them, which is quadratic.
    early = len(framing.trailers)
    framing.feed(b"\r\n")

    assert framing.done
    assert (early, len(framing.trailers)) == (0, 1_000)
    assert framing.trailers[7] == (b"name-7", b"7")
