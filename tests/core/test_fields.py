import pytest

from proxy.core.fields import (
    by_name,
    has_length,
    persistence,
    raw_headers,
    request_fields,
    request_head,
    response_fields,
    response_head,
)


def test_a_plain_request_keeps_everything_but_the_host():
    headers = ((b"Host", b"a"), (b"x-B", b"2"), (b"X-a", b""), (b"x-B", b"\xff"))

    found = request_fields(headers, host=b"up")

    assert found.kept == ((b"Host", b"up"), (b"x-B", b"2"), (b"X-a", b""), (b"x-B", b"\xff"))
    assert not found.has_body
    assert not found.upgrade


def test_the_host_stays_where_it_stood_and_is_added_if_it_is_missing():
    assert request_fields(((b"A", b"1"), (b"hOST", b"a")), host=b"up").kept == (
        (b"A", b"1"),
        (b"hOST", b"up"),
    )
    assert request_fields(((b"A", b"1"),), host=b"up").kept == ((b"Host", b"up"), (b"A", b"1"))


@pytest.mark.parametrize(
    ("field", "has_body", "chunked", "expects"),
    [
        ((b"Content-Length", b"0"), True, False, False),
        ((b"transfer-encoding", b"Chunked"), True, True, False),
        ((b"Expect", b"100-Continue"), False, False, True),
        ((b"Expect", b"other"), False, False, False),
    ],
)
def test_framing_is_read_and_kept(field, has_body, chunked, expects):
    found = request_fields(((b"Host", b"a"), field), host=b"up")

    assert field in found.kept
    assert (found.has_body, found.chunked, found.expect_continue) == (has_body, chunked, expects)


def test_what_connection_names_goes_but_never_framing_or_address():
    headers = (
        (b"Host", b"a"),
        (b"Connection", b"X-Hop , content-length,Host,transfer-encoding"),
        (b"x-hop", b"1"),
        (b"Content-Length", b"3"),
        (b"connection", b"close, x-other"),
        (b"X-Other", b"1"),
    )

    assert request_fields(headers, host=b"up").kept == ((b"Host", b"up"), (b"Content-Length", b"3"))


def test_our_own_fields_and_those_asked_for_are_taken_out():
    headers = (
        (b"Host", b"a"),
        (b"X-DEFERRABLE", b"job"),
        (b"x-deferrable-new", b"1"),
        (b"Prefer", b"x"),
    )

    assert request_fields(headers, host=b"up").kept == ((b"Host", b"up"), (b"Prefer", b"x"))
    assert request_fields(headers, host=b"up", without=frozenset({b"prefer"})).kept == (
        (b"Host", b"up"),
    )


def test_a_handshake_is_kept_as_it_is():
    connection, upgrade = (b"Connection", b"keep-alive, Upgrade"), (b"UPGRADE", b"websocket")

    found = request_fields(((b"Host", b"a"), connection, upgrade), host=b"up")

    assert found.upgrade
    assert connection in found.kept
    assert upgrade in found.kept


def test_an_upgrade_that_connection_does_not_ask_for_is_none():
    found = request_fields(((b"Host", b"a"), (b"Upgrade", b"websocket")), host=b"up")

    assert not found.upgrade
    assert found.kept == ((b"Host", b"up"),)


@pytest.mark.parametrize("protocols", [b"h2c", b"websocket, H2C", b"h2", b"h2c/1"])
def test_nobody_is_asked_to_switch_to_http_2(protocols):
    headers = (
        (b"Host", b"a"),
        (b"Connection", b"Upgrade, HTTP2-Settings"),
        (b"Upgrade", protocols),
        (b"HTTP2-Settings", b"AAMAAABkAAQAAP__"),
    )

    found = request_fields(headers, host=b"up")

    assert not found.upgrade
    assert found.kept == ((b"Host", b"up"),)


def test_an_answer_loses_only_what_belongs_to_its_connection():
    headers = (
        (b"Connection", b"close, X-Hop"),
        (b"Keep-Alive", b"timeout=5"),
        (b"x-hop", b"1"),
        (b"Transfer-Encoding", b"chunked"),
        (b"X-Deferrable-Job", b"job_x"),
        (b"Set-Cookie", b"a"),
        (b"Set-Cookie", b"b"),
    )

    kept = response_fields(headers)

    assert kept == headers[3:]
    assert response_fields(headers, dechunk=True) == headers[4:]


@pytest.mark.parametrize(
    ("keep_alive", "modern", "expected"),
    [
        (True, True, ()),
        (False, True, ((b"Connection", b"close"),)),
        (True, False, ((b"Connection", b"keep-alive"),)),
        (False, False, ((b"Connection", b"close"),)),
    ],
)
def test_persistence_is_said_only_where_it_is_not_understood(keep_alive, modern, expected):
    assert persistence(keep_alive=keep_alive, modern=modern) == expected


def test_heads_are_written_with_the_very_bytes():
    assert request_head("GET", "/\udce9?", ((b"A", b"\xff"), (b"b", b""))) == (
        b"GET /\xe9? HTTP/1.1\r\nA: \xff\r\nb: \r\n\r\n"
    )
    assert response_head(529, "", ()) == b"HTTP/1.1 529 \r\n\r\n"
    assert response_head(504, None, ()) == b"HTTP/1.1 504 Gateway Timeout\r\n\r\n"


def test_fields_are_found_by_name_whatever_its_case():
    headers = ((b"Retry-After", b"3"), (b"X-\xe9", b"\xff"), (b"retry-after", b"4"))

    assert by_name(headers) == {"retry-after": "4", "x-é": "ÿ"}
    assert raw_headers(by_name(headers)) == ((b"retry-after", b"4"), (b"x-\xe9", b"\xff"))


def test_a_length_is_found_whatever_its_case():
    assert has_length(((b"CONTENT-length", b"1"),))
    assert not has_length(((b"X-Content-Length", b"1"),))


class Compared(bytes):
    """A name of a field that counts how often it is compared with anything."""

    looks = 0
    __hash__ = bytes.__hash__

    def lower(self):
        return self

    def __eq__(self, other):
        Compared.looks += 1
        return bytes.__eq__(self, other)


def test_the_fields_that_a_connection_names_are_not_searched_one_by_one():
    names = b",".join(b"name-%d" % number for number in range(1_000))
    fields = tuple((Compared(b"field-%d" % number), b"") for number in range(100))
    headers = ((b"Connection", names), (b"Name-7", b""), *fields)
    Compared.looks = 0

    assert request_fields(headers, host=b"up").kept == ((b"Host", b"up"), *fields)
    assert response_fields(headers) == fields
    assert Compared.looks < 10_000
