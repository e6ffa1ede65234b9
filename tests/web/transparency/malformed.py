"""Answers that are not HTTP, or not all of it, as data: what must not become of them.

Each is sent by an upstream that hangs up after it. A caller may get an error of
ours, or an answer that visibly breaks off; never one that looks whole, since
somebody else would have read another one out of the same bytes.
"""

from dataclasses import dataclass

_HEAD = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Malformed:
    name: str
    reply: bytes
    read_by: tuple[str, ...] = ()
    """Clients that take it all the same: aiohttp's parser is set to be lenient,
    and its session would have been so, too."""


LENIENT = ("aiohttp",)

STATUS_LINES = (
    Malformed("nothing at all", b""),
    Malformed("blank lines alone", b"\r\n\r\n"),
    Malformed("another protocol", b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
    Malformed("a body without a head", b'{"ok": true}\r\n\r\n'),
    Malformed("HTTP/0.9", b"<html>hello</html>"),
    Malformed("a version of its own", b"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n"),
    Malformed("HTTP/2 in clear", b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", LENIENT),
    Malformed("RTSP", b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", LENIENT),
    Malformed("no status", b"HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n"),
    Malformed("a status of two digits", b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"),
    Malformed("a status of four digits", b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"),
    Malformed("a status below 100", b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n"),
    Malformed("a reason with a CR", b"HTTP/1.1 200 O\rK\r\nContent-Length: 0\r\n\r\n"),
    Malformed("a reason with a NUL", b"HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n", LENIENT),
    Malformed("an endless status line", b"HTTP/1.1 200 " + b"x" * 70000 + b"\r\n\r\n"),
    Malformed("a switch that nobody asked for", b"HTTP/1.1 101 S\r\nUpgrade: x\r\n\r\n"),
    Malformed("a 100 and nothing else", b"HTTP/1.1 100 Continue\r\n\r\n"),
)

FIELDS = (
    Malformed("a head that breaks off", _HEAD + b"Content-Length: 2\r\nX-A: "),
    Malformed("a blank before the colon", _HEAD + b"Content-Length : 2\r\n\r\nok"),
    Malformed("a blank after a coding", _HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    Malformed("no name", _HEAD + b": 2\r\nContent-Length: 2\r\n\r\nok"),
    Malformed("no colon", _HEAD + b"X-A\r\nContent-Length: 2\r\n\r\nok"),
    Malformed("a name with a bracket", _HEAD + b"X(A): 1\r\nContent-Length: 2\r\n\r\nok"),
    Malformed("a name with a NUL", _HEAD + b"X\0A: 1\r\nContent-Length: 2\r\n\r\nok"),
    Malformed("a value with a NUL", _HEAD + b"X-A: a\0b\r\nContent-Length: 2\r\n\r\nok"),
    Malformed("a field behind a bare CR", _HEAD + b"X-A: a\rContent-Length: 2\r\n\r\nok"),
    Malformed("a head ended by bare CR", b"HTTP/1.1 200 OK\rContent-Length: 2\r\rok"),
    Malformed("a folded value", _HEAD + b"X-A: a\r\n b\r\nContent-Length: 2\r\n\r\nok", LENIENT),
    Malformed("a folded length", _HEAD + b"Content-Length: 1\r\n 2\r\n\r\nok"),
    Malformed("a fold before all fields", _HEAD + b" X: 1\r\nContent-Length: 2\r\n\r\nok", LENIENT),
    Malformed("an end in bare LF", _HEAD + b"Content-Length: 2\n\nok\r\n\r\n", LENIENT),
    Malformed("a huge field", _HEAD + b"X: " + b"x" * 70000 + b"\r\nContent-Length: 2\r\n\r\nok"),
    Malformed("a huge name", _HEAD + b"x" * 70000 + b": 1\r\nContent-Length: 2\r\n\r\nok"),
    Malformed("too many fields", _HEAD + b"X: 1\r\n" * 600 + b"Content-Length: 2\r\n\r\nok"),
    Malformed(
        "a huge head",
        _HEAD + (b"X: " + b"x" * 30000 + b"\r\n") * 10 + b"Content-Length: 2\r\n\r\nok",
        LENIENT,
    ),
)

LENGTHS = (
    Malformed("a length not reached", _HEAD + b"Content-Length: 3\r\n\r\nok"),
    Malformed("a length and no body", _HEAD + b"Content-Length: 3\r\n\r\n"),
    Malformed("two lengths", _HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok!"),
    Malformed("one length twice", _HEAD + b"Content-Length: 2\r\ncontent-length: 2\r\n\r\nok"),
    Malformed("a list of lengths", _HEAD + b"Content-Length: 2, 2\r\n\r\nok"),
    Malformed("a signed length", _HEAD + b"Content-Length: +2\r\n\r\nok"),
    Malformed("a negative length", _HEAD + b"Content-Length: -1\r\n\r\n"),
    Malformed("a hexadecimal length", _HEAD + b"Content-Length: 0x2\r\n\r\nok"),
    Malformed("a length with an underscore", _HEAD + b"Content-Length: 1_0\r\n\r\n0123456789"),
    Malformed("an empty length", _HEAD + b"Content-Length:\r\n\r\nok"),
    Malformed("a length beyond all", _HEAD + b"Content-Length: 99999999999999999999999\r\n\r\nok"),
    Malformed("all of 64 bits", _HEAD + b"Content-Length: 18446744073709551615\r\n\r\nok"),
    Malformed(
        "a length and chunks",
        _HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    Malformed(
        "chunks and a length",
        _HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ),
)

CODINGS = (
    Malformed("an unknown coding", _HEAD + b"Transfer-Encoding: xchunked\r\n\r\nok"),
    Malformed(
        "a coding after the chunks",
        _HEAD + b"Transfer-Encoding: chunked, gzip\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    Malformed(
        "chunks within chunks",
        _HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        LENIENT,
    ),
    Malformed(
        "an identity and a length",
        _HEAD + b"Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok",
    ),
)

CHUNKS = (
    Malformed("no chunks", _CHUNKED),
    Malformed("no last chunk", _CHUNKED + b"2\r\nok\r\n"),
    Malformed("no end of the trailers", _CHUNKED + b"2\r\nok\r\n0\r\n"),
    Malformed("half an end", _CHUNKED + b"2\r\nok\r\n0\r\n\r"),
    Malformed("a chunk that breaks off", _CHUNKED + b"9\r\nok"),
    Malformed("a size that is none", _CHUNKED + b"zz\r\nok\r\n0\r\n\r\n"),
    Malformed("a signed size", _CHUNKED + b"+2\r\nok\r\n0\r\n\r\n"),
    Malformed("a size with 0x", _CHUNKED + b"0x2\r\nok\r\n0\r\n\r\n"),
    Malformed("a size with an underscore", _CHUNKED + b"0_2\r\nok\r\n0\r\n\r\n"),
    Malformed("a size beyond all", _CHUNKED + b"fffffffffffffffff\r\nok\r\n0\r\n\r\n"),
    Malformed("an empty size", _CHUNKED + b"\r\nok\r\n0\r\n\r\n"),
    Malformed("a chunk longer than said", _CHUNKED + b"2\r\nokay\r\n0\r\n\r\n"),
    Malformed("a chunk shorter than said", _CHUNKED + b"3\r\nok\r\n0\r\n\r\n", LENIENT),
    Malformed("a size ended by bare LF", _CHUNKED + b"2\nok\r\n0\r\n\r\n", LENIENT),
    Malformed("an extension with a bare LF", _CHUNKED + b"2;a\nok\r\n0\r\n\r\n", LENIENT),
    Malformed(
        "an endless extension",
        _CHUNKED + b"2;" + b"x" * 70000 + b"\r\nok\r\n0\r\n\r\n",
        LENIENT,
    ),
    Malformed("a trailer without a colon", _CHUNKED + b"2\r\nok\r\n0\r\nX\r\n\r\n"),
    Malformed("a trailer with a CR", _CHUNKED + b"2\r\nok\r\n0\r\nX: a\rb\r\n\r\n"),
    Malformed("a folded trailer", _CHUNKED + b"2\r\nok\r\n0\r\nX: a\r\n b\r\n\r\n", LENIENT),
)

MALFORMED = STATUS_LINES + FIELDS + LENGTHS + CODINGS + CHUNKS
