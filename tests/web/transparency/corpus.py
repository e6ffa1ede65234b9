"""Awkward calls as data: what a caller sends, what the upstream answers, exact bytes.

A request is written as a direct caller would send it. The proxied one differs by
the prefix of its target alone.
"""

import gzip
import zlib
from dataclasses import dataclass

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BINARY = bytes(range(256)) * 16
LARGE = b"0123456789abcdef" * (1 << 16)  # 1 MiB


@dataclass(frozen=True)
class Row:
    name: str
    request: tuple[bytes, ...]
    """Segments of the request, written one by one."""
    reply: tuple[bytes, ...] = (OK,)
    close: bool = False
    """Whether the upstream hangs up after its reply."""
    known_difference: str | None = None
    """Why the two sides may differ; few."""
    differs_with: tuple[str, ...] = ()
    """The clients that the difference is known of."""


def get(target: bytes, *fields: bytes) -> tuple[bytes, ...]:
    return (head(b"GET", target, *fields),)


def post(body: bytes, *fields: bytes, target: bytes = b"/v1/x") -> tuple[bytes, ...]:
    return (head(b"POST", target, *fields, b"Content-Length: %d" % len(body)) + body,)


def head(method: bytes, target: bytes, *fields: bytes) -> bytes:
    lines = [b"%b %b HTTP/1.1" % (method, target), b"Host: upstream.test", *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def reply(status: bytes, *fields: bytes, body: bytes = b"") -> tuple[bytes, ...]:
    return (b"\r\n".join([b"HTTP/1.1 " + status, *fields]) + b"\r\n\r\n" + body,)


def chunks(*pieces: bytes) -> tuple[bytes, ...]:
    return (*(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces), b"0\r\n\r\n")


CHUNKED = b"Transfer-Encoding: chunked"
JSON = b"Content-Type: application/json"
SSE = (b"Content-Type: text/event-stream", b"Cache-Control: no-cache")

TARGETS = (
    Row("a plain target", get(b"/v1/models")),
    Row("the root", get(b"/")),
    Row("an empty query", get(b"/v1/x?")),
    Row("only a query", get(b"/?a")),
    Row("two question marks", get(b"/v1/x??a=b?c")),
    Row("doubled slashes", get(b"/v1//x///y")),
    Row("a leading double slash", get(b"//v1/x")),
    Row("a trailing slash", get(b"/v1/x/")),
    Row("an encoded slash", get(b"/v1/models/org%2Fname")),
    Row("a lower-case escape", get(b"/v1/models/org%2fname")),
    Row("an encoded newline", get(b"/v1/x%0Ay%0D%0Az")),
    Row("an encoded NUL", get(b"/v1/x%00")),
    Row("needless escapes", get(b"/v1/%41%7E%2D")),
    Row("broken escapes", get(b"/v1/100%/%zz?%")),
    Row("dot segments", get(b"/v1/./a/../b/.")),
    Row("encoded dot segments", get(b"/v1/%2e%2e/%2E%2E/b")),
    Row("UTF-8 escapes", get(b"/v1/%C3%A9%E2%82%AC?q=%F0%9F%98%80")),
    Row("latin-1 escapes", get(b"/v1/%E9")),
    Row("a plus and a space", get(b"/v1/x?a=b+c&d=e%20f")),
    Row("order and duplicates of a query", get(b"/v1/x?b=1&a=2&b=3&=&&c")),
    Row("an encoded ampersand", get(b"/v1/x?a=1%26b=2;c=3")),
    Row("brackets and pipes", get(b"/v1/x?include[]=a|b&f={c}^`")),
    Row("colons and at signs", get(b"/v1/models/ft:gpt@x:y::z")),
    Row("an URL inside a target", get(b"/v1/http://other.test/x?u=http://y/z")),
    Row("a long target", get(b"/v1/" + b"x" * 7000 + b"?" + b"y" * 7000)),
)

METHODS = (
    Row("DELETE", (head(b"DELETE", b"/v1/x"),)),
    Row("OPTIONS", (head(b"OPTIONS", b"/v1/x"),)),
    Row("PROPFIND", (head(b"PROPFIND", b"/v1/x"),)),
    Row("PUT with a body", (head(b"PUT", b"/v1/x", b"Content-Length: 3") + b"abc",)),
    Row("PATCH with a body", (head(b"PATCH", b"/v1/x", b"Content-Length: 3") + b"abc",)),
    Row("GET with a body", (head(b"GET", b"/v1/x", b"Content-Length: 3") + b"abc",)),
    Row("DELETE with a body", (head(b"DELETE", b"/v1/x", b"Content-Length: 3") + b"abc",)),
    Row("POST with an empty body", post(b"")),
    Row("POST without any framing", (head(b"POST", b"/v1/x"),)),
    Row(
        "HEAD with a length",
        (head(b"HEAD", b"/v1/x"),),
        reply(b"200 OK", b"Content-Length: 12345", b"ETag: x"),
    ),
    Row("HEAD with chunks", (head(b"HEAD", b"/v1/x"),), reply(b"200 OK", CHUNKED)),
)

FIELDS = (
    Row("duplicate fields", get(b"/v1/x", b"X-A: 1", b"X-B: 2", b"X-A: 3", b"x-a: 1")),
    Row("the case of names", get(b"/v1/x", b"x-lower: 1", b"X-UPPER: 2", b"x-MiXeD: 3")),
    Row("empty values", get(b"/v1/x", b"X-Empty:", b"X-Blank:   ", b"X-A: 1")),
    Row("inner whitespace", get(b"/v1/x", b"X-A:  a  b\tc  ", b"X-B:\tt\t")),
    Row("no whitespace", get(b"/v1/x", b"X-A:1")),
    Row("latin-1 bytes", get(b"/v1/x", b"X-Name: Jos\xe9 \xff\xfe")),
    Row("UTF-8 bytes", get(b"/v1/x", "X-Name: Łódź €".encode())),
    Row("quotes and commas", get(b"/v1/x", b'X-A: "a,b", c; d="e\\"f"')),
    Row("odd names", get(b"/v1/x", b"X_Under: 1", b"X.Dot: 2", b"!#$%&'*+-.^_`|~9: 3")),
    Row("cookies", get(b"/v1/x", b"Cookie: a=b; c=d", b"Cookie: e=f")),
    Row("a long value", get(b"/v1/x", b"Authorization: Bearer " + b"k" * 16000)),
    Row("two hundred fields", get(b"/v1/x", *(b"X-%d: %d" % (i, i) for i in range(200)))),
    Row("no Accept nor User-Agent", get(b"/v1/x")),
    Row("an Accept-Encoding", get(b"/v1/x", b"Accept-Encoding: gzip, br;q=0.1, zstd")),
    Row("Prefer and Idempotency-Key", post(b"{}", b"Prefer: wait=5", b"Idempotency-Key: k")),
    Row("authorization schemes", get(b"/v1/x", b"authorization: Basic dTpw", b"X-Api-Key: k")),
    Row("forwarding fields", get(b"/v1/x", b"X-Forwarded-For: 1.2.3.4", b"Via: 1.0 x")),
    Row("a range", get(b"/v1/files/a/content", b"Range: bytes=0-1", b'If-Range: "x"')),
    Row("SDK fields", post(b"{}", b"X-Stainless-Lang: python", b"x-stainless-retry-count: 0")),
)

BODIES = (
    Row("JSON", post(b'{"a": [1,2 ], "b":"\\u00e9"}', JSON)),
    Row("JSON with odd bytes", post(b"\xef\xbb\xbf{}\r\n\x00", JSON)),
    Row("binary", post(BINARY, b"Content-Type: application/octet-stream")),
    Row("no content type", post(b"abc")),
    Row("gzip", post(gzip.compress(b"{}" * 500, mtime=0), JSON, b"Content-Encoding: gzip")),
    Row("deflate", post(zlib.compress(b"{}"), JSON, b"Content-Encoding: deflate")),
    Row("an encoding that lies", post(b"not gzip", b"Content-Encoding: gzip")),
    Row("an unknown encoding", post(b"\x0b\x02\x80x\x03", b"Content-Encoding: br")),
    Row(
        "multipart",
        post(
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
            + BINARY
            + b"\r\n--b--\r\n",
            b"Content-Type: multipart/form-data; boundary=b",
        ),
    ),
    Row("a form", post(b"a=b&c=%20", b"Content-Type: application/x-www-form-urlencoded")),
    Row("one mebibyte", post(LARGE)),
    Row("head and body apart", (head(b"POST", b"/v1/x", b"Content-Length: 6"), b"abc", b"def")),
    Row("chunks", (head(b"POST", b"/v1/x", CHUNKED), *chunks(b"abc", b"d", BINARY))),
    Row(
        "chunks in one segment", (head(b"POST", b"/v1/x", CHUNKED) + b"".join(chunks(b"a", b"b")),)
    ),
    Row("no chunks at all", (head(b"POST", b"/v1/x", CHUNKED), *chunks())),
    Row("chunk extensions", (head(b"POST", b"/v1/x", CHUNKED), b"3;a=b\r\nabc\r\n0\r\n\r\n")),
    Row("large chunks", (head(b"PUT", b"/v1/x", CHUNKED), *chunks(LARGE, b"x", LARGE))),
    Row("GET with chunks", (head(b"GET", b"/v1/x", CHUNKED), *chunks(b"abc"))),
    Row(
        "request trailers",
        (head(b"POST", b"/v1/x", CHUNKED), b"3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"),
        known_difference="aiohttp's server drops trailer fields; the body is exact",
        differs_with=("aiohttp", "lean", "short"),
    ),
)

ANSWERS = (
    Row("a reason phrase of its own", get(b"/x"), reply(b"200 All's Well", b"Content-Length: 0")),
    Row("an empty reason", get(b"/x"), reply(b"200 ", b"Content-Length: 0")),
    Row("a latin-1 reason", get(b"/x"), reply(b"200 Tr\xe8s bien", b"Content-Length: 0")),
    Row("an unknown status", get(b"/x"), reply(b"299 Odd", b"Content-Length: 1", body=b"x")),
    Row("a status of Cloudflare's", get(b"/x"), reply(b"529 ", b"Content-Length: 1", body=b"x")),
    Row(
        "duplicate cookies",
        get(b"/x"),
        reply(b"200 OK", b"Set-Cookie: a=b; Path=/", b"set-cookie: c=d", b"Content-Length: 0"),
    ),
    Row(
        "case, order, blanks and bytes of fields",
        get(b"/x"),
        reply(b"200 OK", b"x-B:2", b"X-a:  1 \t", b"X-E:", b"x-b: \xe9\xff", b"content-length: 0"),
    ),
    Row("no Date nor Server", get(b"/x"), reply(b"200 OK", b"Content-Length: 0")),
    Row(
        "the upstream's Date and Server",
        get(b"/x"),
        reply(b"200 OK", b"Server: cloudflare", b"Date: Mon, 01 Jan 2001 00:00:00 GMT", CHUNKED)
        + chunks(b"x"),
    ),
    Row(
        "fields that browsers care for",
        get(b"/x"),
        reply(b"200 OK", b"Alt-Svc: h3", b"Strict-Transport-Security: x", b"Content-Length: 0"),
    ),
    Row("no content type back", get(b"/x"), reply(b"200 OK", b"Content-Length: 3", body=b"abc")),
    Row("204 with fields", get(b"/x"), reply(b"204 No Content", b"X-Request-Id: r")),
    Row(
        "304 with a length",
        get(b"/x"),
        reply(b"304 Not Modified", b'ETag: "e"', b"Content-Length: 9"),
    ),
    Row(
        "a redirect",
        post(b"{}"),
        reply(b"307 T", b"Location: http://other.test/", b"Content-Length: 0"),
    ),
    Row(
        "a relative redirect",
        get(b"/x"),
        reply(b"302 F", b"Location: /y", b"Content-Length: 2", body=b"go"),
    ),
    Row(
        "a relocation for good",
        get(b"/x"),
        reply(b"301 M", b"Location: //x/y", b"Content-Length: 0"),
    ),
    Row("400", post(b"{}"), reply(b"400 Bad", JSON, b"Content-Length: 13", body=b'{"error":"x"}')),
    Row(
        "401",
        get(b"/x"),
        reply(b"401 U", b'WWW-Authenticate: Bearer realm="x"', b"Content-Length: 0"),
    ),
    Row("407", get(b"/x"), reply(b"407 P", b"Proxy-Authenticate: Basic", b"Content-Length: 0")),
    Row(
        "429",
        post(b"{}"),
        reply(
            b"429 Too Many",
            b"Retry-After: 7",
            b"x-ratelimit-reset: 1s",
            b"Content-Length: 1",
            body=b"x",
        ),
    ),
    Row("500", post(b"{}"), reply(b"500 ISE", CHUNKED) + chunks(b"<html>", b"oops")),
    Row(
        "503 and goodbye",
        get(b"/x"),
        reply(b"503 S", b"Connection: close", b"Content-Length: 1", body=b"x"),
        close=True,
    ),
    Row(
        "gzip back",
        get(b"/x", b"Accept-Encoding: gzip"),
        reply(b"200 OK", b"Content-Encoding: gzip", CHUNKED)
        + chunks(gzip.compress(b"x" * 999, mtime=0)),
    ),
    Row(
        "br back",
        get(b"/x"),
        reply(b"200 OK", b"Content-Encoding: br", b"Content-Length: 5", body=b"\x0b\x02\x80x\x03"),
    ),
    Row(
        "an encoding that lies back",
        get(b"/x"),
        reply(b"200 OK", b"Content-Encoding: gzip", b"Content-Length: 3", body=b"abc"),
    ),
    Row("binary back", get(b"/x"), reply(b"200 OK", b"Content-Length: 4096", body=BINARY)),
    Row("one mebibyte back", get(b"/x"), reply(b"200 OK", b"Content-Length: 1048576", body=LARGE)),
    Row("large chunks back", get(b"/x"), reply(b"200 OK", CHUNKED) + chunks(LARGE, b"x", LARGE)),
    Row("no chunks back", get(b"/x"), reply(b"200 OK", CHUNKED) + chunks()),
    Row("a length of zero", get(b"/x"), reply(b"200 OK", b"Content-Length: 0")),
    Row(
        "a body byte by byte",
        get(b"/x"),
        (*reply(b"200 OK", b"Content-Length: 3"), b"a", b"b", b"c"),
    ),
    Row("a head byte by byte", get(b"/x"), tuple(bytes([byte]) for byte in OK)),
    Row(
        "a body that ends with the connection",
        get(b"/x"),
        (*reply(b"200 OK"), b"abc", b"def"),
        close=True,
    ),
    Row("an empty body that ends with it", get(b"/x"), reply(b"200 OK"), close=True),
    Row("HTTP/1.0", get(b"/x"), (b"HTTP/1.0 200 OK\r\nX-A: 1\r\n\r\nabc",), close=True),
    Row(
        "a broken length",
        get(b"/x"),
        reply(b"200 OK", b"Content-Length: 10", body=b"abc"),
        close=True,
    ),
    Row("broken chunks", get(b"/x"), (*reply(b"200 OK", CHUNKED), b"3\r\nabc\r\n"), close=True),
    Row("a chunk broken inside", get(b"/x"), (*reply(b"200 OK", CHUNKED), b"9\r\nabc"), close=True),
    Row(
        "response trailers",
        get(b"/x", b"TE: trailers"),
        (*reply(b"200 OK", CHUNKED, b"Trailer: X-T"), b"3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"),
        known_difference="aiohttp's response parser drops trailer fields; the body is exact",
        differs_with=("aiohttp",),
    ),
    Row("103 first", get(b"/x"), (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", OK)),
    Row("102 twice, in one segment", get(b"/x"), (b"HTTP/1.1 102 Processing\r\n\r\n" * 2 + OK,)),
    Row("100 unasked", post(b"{}"), (b"HTTP/1.1 100 Continue\r\n\r\n", OK)),
    Row("100 twice", post(b"{}"), (b"HTTP/1.1 100 Continue\r\n\r\n" * 2, OK)),
)

STREAMS = (
    Row(
        "SSE, an event a chunk",
        post(b'{"stream":true}', JSON),
        reply(b"200 OK", *SSE, CHUNKED)
        + chunks(b'event: a\ndata: {"x":1}\n\n', b"data: 2\n\n", b"data: [DONE]\n\n"),
    ),
    Row(
        "SSE, chunks across events and lines",
        post(b'{"stream":true}', JSON),
        reply(b"200 OK", *SSE, CHUNKED)
        + chunks(b"da", b"ta: 1", b"\n", b"\ndata: \xe2\x82", b"\xac\n\nid: 7\nretry: 1\n\n"),
    ),
    Row(
        "SSE, comments, CRLF and blank lines",
        post(b"{}"),
        reply(b"200 OK", *SSE, CHUNKED)
        + chunks(b": ping\r\n\r\n", b"\n\n\n", b"data:x\r\ndata:y\r\n\r\n"),
    ),
    Row(
        "SSE that ends with the connection",
        post(b"{}"),
        (*reply(b"200 OK", *SSE), b"data: 1\n\n", b"data: 2\n\n"),
        close=True,
    ),
    Row(
        "SSE, a chunk cut by segments",
        post(b"{}"),
        (
            *reply(b"200 OK", *SSE, CHUNKED),
            b"1",
            b"2\r\ndata: 1\n\ndat",
            b"a: 2\n\n\r",
            b"\n0\r\n\r",
            b"\n",
        ),
    ),
    Row(
        "whitespace before JSON",
        post(b"{}"),
        reply(b"200 OK", JSON, CHUNKED) + chunks(b"\n", b" ", b"{}"),
    ),
)

CORPUS = TARGETS + METHODS + FIELDS + BODIES + ANSWERS + STREAMS
