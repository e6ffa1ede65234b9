import asyncio

import pytest

from proxy.ports.upstream import ClientLimits
from proxy.upstreams.head import (
    HeadParser,
    MalformedHeadError,
    head_end,
    may_be_head,
)


@pytest.fixture
def parser():
    loop = asyncio.new_event_loop()
    yield HeadParser(loop, ClientLimits(max_fields=8, max_field_bytes=100, max_line_bytes=100))
    loop.close()


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (b"a\r\n\r\nbody\r\n\r\n", 5),
        (b"a\nb\r\n\r\n\r\n\r\n", 7),
        (b"a\r\nb\r\n", -1),
        (b"", -1),
    ],
)
def test_a_head_ends_at_its_first_empty_line(data, end):
    assert head_end(data) == end


@pytest.mark.parametrize("data", [b"a\n\nbody", b"a\n\r\nbody", b"a\r\n\nbody"])
def test_a_bare_line_feed_ends_no_head(data):
    with pytest.raises(MalformedHeadError):
        head_end(data)


@pytest.mark.parametrize("data", [b"", b"H", b"HTTP/1", b"HTTP/1.", b"HTTP/1.1 2"])
def test_what_may_become_a_head_is_waited_for(data):
    assert may_be_head(data)


@pytest.mark.parametrize("data", [b"SSH", b"\r\nHTTP/1.1", b"http/1.1", b"HTTP/2", b"\x16\x03"])
def test_what_can_be_no_head_is_not_waited_for(data):
    assert not may_be_head(data)


def test_head_after_head_is_read_and_never_a_body(parser):
    for head in (
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 500 \r\nTransfer-Encoding: chunked\r\nx-A:  b \r\n\r\n",
        b"HTTP/1.1 204 No\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ):
        message = parser.parse(head)
        assert b"%d" % message.code == head[9:12]


def test_names_values_and_reason_are_as_they_were_sent(parser):
    message = parser.parse(b"HTTP/1.1 200 \xe9 b\r\nx-A:  b\xff\t\r\nX-a:\r\n\r\n")

    assert message.reason.encode("utf-8", "surrogateescape") == b"\xe9 b"
    assert message.raw_headers == ((b"x-A", b"b\xff"), (b"X-a", b""))


@pytest.mark.parametrize(
    "head",
    [
        b"\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 099 Low\r\n\r\n",
        b"HTTP/1.1 1000 High\r\n\r\n",
        b"HTTP/1.2 200 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"RTSP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 O\0K\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n A: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection : close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 200 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 9 + b"\r\n",
        # An end that only some would see.
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\n\n\r\n\r\n",
        b"HTTP/1.1 204 No\n\r\nabc\r\n\r\n",
        # Two heads where one was said to be: where they part is then in doubt.
        b"HTTP/1.1 204 No\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
    ],
)
def test_a_head_that_could_be_read_in_two_ways_is_refused(parser, head):
    with pytest.raises(MalformedHeadError):
        parser.parse(head)
