import pytest

from proxy.web.forwarding.boundary import Boundary

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b""],
        [GET],
        [GET, GET],
        [POST + b"abc"],
        [POST, b"abc"],
        [POST, b"a", b"", b"bc", POST, b"abc"],
        [b"POST / HTTP/1.1\r\nHost: a\r\ncontent-length:3 \r\n\r\nabc"],
        [b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"],
        [b"POST / HTTP/1.1\r\nX-Content-Length: 9\r\n\r\n"],
    ],
)
def test_the_next_byte_begins_a_head_after_a_whole_call(pieces):
    boundary = Boundary()
    for piece in pieces:
        boundary.follow(piece)

    assert boundary.is_plain


@pytest.mark.parametrize(
    "pieces",
    [
        [POST],
        [POST, b"ab"],
        [GET[:-1]],
        [GET[:-2], GET[-2:]],
        [GET + GET[:5]],
        [POST + b"abcd"],
        [POST, b"abc" + GET[:5]],
        [b"\r\n\r\n" + GET],
        [b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
        [b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc"],
        [b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc"],
        [b"POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\nabc"],
        [b"POST / HTTP/1.1\r\nContent-Length : 3\r\n\r\nabc"],
    ],
)
def test_what_leaves_a_doubt_is_no_boundary(pieces):
    boundary = Boundary()
    for piece in pieces:
        boundary.follow(piece)

    assert not boundary.is_plain


def test_a_doubt_stays():
    boundary = Boundary()
    for piece in (GET[:-2], GET[-2:], GET, POST + b"abc"):
        boundary.follow(piece)

    assert not boundary.is_plain
