"""What goes upstream is read alike by everybody: no request hides within another.

The bytes that an upstream receives are given to two parsers that have nothing in
common (h11 in Python, llhttp's relative httptools), and to the plain reader of
these tests; all three must see the same requests, with the same bodies.
"""

import asyncio
from dataclasses import dataclass

import h11
import httptools
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.raw_upstream import Message, RawCaller, RawUpstream, replying, wait_until
from tests.web.transparency.corpus import CORPUS, OK, Row, chunks, get, head, post
from tests.web.transparency.harness import CLIENTS, RunningProxy, running_proxy

HOST = b"Host: upstream.test"
CHUNKED = b"Transfer-Encoding: chunked"


@dataclass(frozen=True)
class Read:
    """One request as somebody read it."""

    method: bytes
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes


def read_by_h11(stream: bytes) -> list[Read]:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 22)
    connection.receive_data(stream)
    found: list[Read] = []
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            assert connection.their_state is h11.IDLE, "a request without its end"
            assert connection.trailing_data == (b"", False)
            return found
        if isinstance(event, h11.Request):
            fields = tuple((name.lower(), value) for name, value in event.headers)
            found.append(Read(event.method, event.target, fields, b""))
        elif isinstance(event, h11.Data):
            last = found[-1]
            body = last.body + bytes(event.data)
            found[-1] = Read(last.method, last.target, last.fields, body)
        elif isinstance(event, h11.EndOfMessage):
            connection.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
            connection.send(h11.EndOfMessage())
            connection.start_next_cycle()


class _Collector:
    def __init__(self) -> None:
        self.found: list[Read] = []
        self.open = False

    def on_message_begin(self) -> None:
        self.target, self.body, self.open = b"", b"", True
        self.fields: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip(b" \t")))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        method = self.parser.get_method()
        self.found.append(Read(method, self.target, tuple(self.fields), self.body))
        self.open = False

    parser: httptools.HttpRequestParser


def read_by_httptools(stream: bytes) -> list[Read]:
    collector = _Collector()
    collector.parser = httptools.HttpRequestParser(collector)
    collector.parser.feed_data(stream)
    assert not collector.open, "a request without its end"
    return collector.found


def read_plainly(messages: list[Message]) -> list[Read]:
    found = []
    for message in messages:
        method, target, _ = message.start_line.split(b" ", 2)
        fields = tuple((name.lower(), value) for name, value in message.fields)
        found.append(Read(method, target, fields, message.body))
    return found


def assert_read_alike(upstream: RawUpstream) -> None:
    for connection in upstream.connections:
        # An upload that was cut ends its connection, and is nothing to anybody.
        whole = [message for message in connection.requests if message.complete]
        if not whole:
            continue
        stream = b"".join(message.head + message.framed_body for message in whole)
        plainly = read_plainly(whole)
        assert read_by_httptools(stream) == plainly
        assert read_by_h11(stream) == plainly


def prefixed(request: tuple[bytes, ...]) -> tuple[bytes, ...]:
    method, _, rest = request[0].partition(b" ")
    return (method + b" /up" + rest, *request[1:])


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("row", CORPUS, ids=lambda row: row.name.replace(" ", "_"))
async def test_every_request_of_the_corpus_is_read_alike(row: Row, client: str):
    async with (
        RawUpstream(replying(OK)) as upstream,
        running_proxy(upstream.port, CLIENTS[client]) as proxy,
        RawCaller(proxy.port) as caller,
    ):
        for _ in range(2):
            await caller.send(*prefixed(row.request))
            await caller.response(bodiless=row.request[0].startswith(b"HEAD "))

        assert len(upstream.requests) == 2
        assert_read_alike(upstream)


token = st.text("!#$%&'*+-.^_`|~0123456789abcXYZ", min_size=1, max_size=8).map(str.encode)
value = st.binary(max_size=12).map(
    lambda raw: bytes(byte for byte in raw if byte >= 0x20 and byte != 0x7F).strip(b" ")
)
target = st.text('/%:;=?&@[]{}|^`"\\.-+~aZ09', max_size=20).map(lambda text: f"/{text}".encode())
PLAIN = frozenset({b"upgrade", b"te", b"host"})


@st.composite
def made_requests(draw: st.DrawFn) -> bytes:
    """Requests that are valid, if odd."""
    fields = draw(st.lists(st.tuples(token, value), max_size=5))
    lines = [b"%b: %b" % field for field in fields if field[0].lower() not in PLAIN]
    pieces = draw(st.lists(st.binary(max_size=30), max_size=4))
    method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS"]))
    kind = draw(st.sampled_from(["none", "length", "chunks"]))
    body = b""
    if kind == "length":
        body = b"".join(pieces)
        lines.append(b"Content-Length: %d" % len(body))
    elif kind == "chunks":
        body = b"".join(chunks(*(piece for piece in pieces if piece)))
        lines.append(CHUNKED)
    return head(method, b"/up" + draw(target), *lines) + body


# What requests are smuggled with.
SPLINTERS = [
    *(b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b"\x0b", b"\x85", b"0", b"1", b";", b","),
    *(b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"Transfer-Encoding : chunked\r\n", b"Transfer-Encoding: identity\r\n", b"chunked, "),
    *(b"Connection: content-length, host\r\n", b"\r\n 0\r\n", b"0\r\n\r\n", b"+", b"0x", b"_"),
    *(b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", b"Content-Length\r\n: 3", b"xchunked"),
]
BASES = [
    *get(b"/up/v1/x", b"X-A: 1"),
    *post(b"hello", b"X-A: 1", target=b"/up/v1/x"),
    head(b"POST", b"/up/v1/x", CHUNKED) + b"".join(chunks(b"hello", b"you")),
]


@st.composite
def broken_requests(draw: st.DrawFn) -> bytes:
    """Requests with splinters driven into them."""
    data = draw(st.sampled_from(BASES))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        cut = draw(st.integers(0, 2))
        data = data[:at] + draw(st.sampled_from(SPLINTERS)) + data[at + cut :]
    return data


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("requests", [made_requests(), broken_requests()], ids=["made", "broken"])
async def test_requests_of_any_make_are_read_alike_or_not_at_all(client, requests):
    loop = asyncio.get_running_loop()
    async with (
        RawUpstream(replying(OK)) as upstream,
        # A body that does not come is soon given up.
        running_proxy(upstream.port, CLIENTS[client], upload_idle_s=0.02) as proxy,
    ):

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(requests)
        def check(request: bytes) -> None:
            done = forward(upstream, proxy, request)
            asyncio.run_coroutine_threadsafe(done, loop).result(60)

        await asyncio.to_thread(check)


async def forward(upstream: RawUpstream, proxy: RunningProxy, request: bytes) -> None:
    """Send a request; then look at what came out at the other end."""
    for connection in upstream.connections:
        connection.requests.clear()
    proxy.done.clear()
    async with RawCaller(proxy.port) as caller:
        # Ends a head that has no end; before a request it would be read over.
        await caller.send(request + b"\r\n\r\n")
        try:
            answer = await caller.response(bodiless=request.startswith(b"HEAD"))
        except (asyncio.IncompleteReadError, ConnectionError):
            answered = False
        else:
            answered = answer.head.startswith(b"HTTP/1.1 200")
    if answered:
        await wait_until(lambda: proxy.done, "the record")
    assert_read_alike(upstream)
    assert len(upstream.requests) >= answered
