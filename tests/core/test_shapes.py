from hypothesis import given
from hypothesis import strategies as st

from proxy.core.fields import (
    has_length,
    request_fields,
    request_head,
    response_fields,
    response_head,
)
from proxy.core.shapes import MAX_SHAPES, HeadWriter

NOTABLE = [
    *(b"Connection", b"Keep-Alive", b"Proxy-Connection", b"TE", b"Upgrade", b"Host", b"Expect"),
    *(b"Content-Length", b"Transfer-Encoding", b"Proxy-Authorization", b"X-Deferrable-Tags"),
    *(b"X-Hop", b"x-hop", b"Prefer", b"100%b", b"%%", b"Trailer"),
]
VALUES = [
    *(b"close", b"Keep-Alive", b"upgrade", b"X-Hop, close", b"100-continue", b"chunked", b"3"),
    *(b"", b"%b%s", b"websocket", b"\xff"),
]
headers = st.lists(
    st.tuples(
        st.sampled_from(NOTABLE).flatmap(
            lambda name: st.sampled_from([name, name.lower(), name.upper()])
        ),
        st.sampled_from(VALUES),
    ),
    max_size=6,
).map(tuple)

# Kept between examples on purpose: a later call must not be served by what was
# learned from an earlier one.
WRITER = HeadWriter()


@given(
    headers, st.sampled_from([frozenset(), frozenset({b"prefer"})]), st.sampled_from([b"a", b"b%"])
)
def test_a_request_is_written_as_it_is_without_patterns(given_headers, without, host):
    head, says = WRITER.request("POST", "/x?%b\udcff", given_headers, host=host, without=without)

    fields = request_fields(given_headers, host=host, without=without)
    assert head == request_head("POST", "/x?%b\udcff", fields.kept)
    assert (says.has_body, says.chunked) == (fields.has_body, fields.chunked)
    assert (says.expect_continue, says.upgrade) == (fields.expect_continue, fields.upgrade)


@given(headers, st.booleans())
def test_an_answer_is_written_as_it_is_without_patterns(given_headers, dechunk):
    head, announced = WRITER.response(200, "O%bK\udcff", given_headers, dechunk=dechunk)

    kept = response_fields(given_headers, dechunk=dechunk)
    assert head + b"\r\n" == response_head(200, "O%bK\udcff", kept)
    assert announced == has_length(kept)


def test_a_pattern_holds_no_value():
    writer = HeadWriter()
    for secret in (b"first", b"second"):
        pairs = ((b"Host", b"a"), (b"Authorization", secret), (b"A", b"1"))
        head, _ = writer.request("GET", "/", pairs, host=b"up")

        assert head == b"GET / HTTP/1.1\r\nHost: up\r\nAuthorization: %b\r\nA: 1\r\n\r\n" % secret
        assert secret not in repr((writer._requests, writer._responses)).encode()


def test_ever_new_names_make_nothing_larger():
    writer = HeadWriter()
    for at in range(3 * MAX_SHAPES):
        pairs = ((b"A", b"1"), (b"B", b"2"), (b"X-%d" % at, b"3"))
        writer.request("GET", "/", pairs, host=b"up")
        writer.response(200, "OK", pairs)

    assert len(writer._requests[b"up"]) <= MAX_SHAPES
    assert len(writer._responses) <= MAX_SHAPES


def test_long_or_many_names_are_not_remembered():
    writer = HeadWriter()
    for pairs in (
        ((b"A", b"1"), (b"B", b"2"), (b"x" * 4000, b"3")),
        tuple((b"X-%d" % at, b"") for at in range(100)),
    ):
        head, _ = writer.response(200, "OK", pairs)

        assert head + b"\r\n" == response_head(200, "OK", pairs)
        assert not writer._responses
