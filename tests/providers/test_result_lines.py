import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic_core import from_json

from proxy.ports.provider import LineKind
from proxy.providers.result_lines import (
    NO_STATUS,
    LineCutter,
    _member,
    _usual_body,
    member_span,
    result_line,
)

KEYS = st.sampled_from(["body", "response", "custom_id", "error", "b\\ody", "id", '"', "{", "é"])
TEXT = st.text(alphabet=st.sampled_from('ab"\\{}[],: \n\u00e9\u2028😀')) | st.text(max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | TEXT, inner, max_size=4),
    max_leaves=12,
)
ANSWERS = VALUES.filter(lambda value: value is not None)
SPACES = st.sampled_from(["", " ", "\t", "  \r", " \n"])


@st.composite
def written(draw: st.DrawFn, value: object) -> str:
    """Some valid JSON for `value`: any spacing, any escapes, any order of keys."""
    gap = draw(SPACES)
    if isinstance(value, dict):
        members = [
            f"{gap}{draw(written(key))}{gap}:{draw(SPACES)}{draw(written(item))}{draw(SPACES)}"
            for key, item in draw(st.permutations(list(value.items())))
        ]
        return "{" + (",".join(members) or gap) + "}"
    if isinstance(value, list):
        return "[" + gap + ",".join(f"{draw(written(v))}{draw(SPACES)}" for v in value) + "]"
    if isinstance(value, str) and value and draw(st.booleans()):
        units = value.encode("utf-16-be", "surrogatepass")
        escaped = "".join(
            f"\\u{units[at]:02x}{units[at + 1]:02X}" for at in range(0, len(units), 2)
        )
        return f'"{escaped}"'
    return json.dumps(value, ensure_ascii=draw(st.booleans()))


LINES = st.fixed_dictionaries(
    {
        "custom_id": st.just("job-1"),
        "response": st.fixed_dictionaries(
            {"status_code": st.just(200), "body": ANSWERS},
            optional={"request_id": TEXT, "b\\ody": VALUES, "headers": VALUES},
        ),
    },
    optional={"id": TEXT, "error": st.none(), "body": VALUES, "x": VALUES},
)


@given(st.data(), LINES)
def test_the_body_is_the_exact_span_of_what_a_json_parser_reads_there(data, value):
    text = data.draw(written(value))
    line = text.encode("utf-8", "surrogatepass")

    read = result_line(line)

    assert read.kind is LineKind.ANSWERED
    assert read.body in line
    assert json.loads(read.body) == json.loads(line)["response"]["body"]
    assert read.content == json.loads(read.body)
    assert read.body == read.body.strip()


@given(VALUES, ANSWERS, st.sampled_from(['"body"', '"b\\u006fdy"', '"\\u0062ody"']))
def test_of_equal_keys_the_last_counts_as_it_does_for_parsers(first, last, key):
    response = f'{{"body":{json.dumps(first)},{key}: {json.dumps(last)},"status_code":200}}'
    line = f'{{"response":{{"body":1}},"response":{response},"custom_id":"a"}}'.encode()

    assert json.loads(result_line(line).body) == last


@given(LINES, LINES, st.booleans(), SPACES)
def test_the_short_way_to_a_span_agrees_with_the_long_one(value, other, is_twice, space):
    text = json.dumps(value)
    if is_twice:
        text = f'{text[:-1]},"response":{json.dumps(other["response"])},"error":null}}'
    line = (text + space).encode()
    start = line.index(b"{")

    walked = _member(line, start, (b"response", b"body"))[1]

    usual = _usual_body(line)
    assert usual is None or (usual[0] == walked and usual[1] == from_json(line[slice(*walked)]))
    assert _usual_body(SHAPES["success"][0]) is not None


def test_a_response_that_is_overridden_by_something_else_has_no_body():
    line = b'{"response":{"body":1},"response":null}'

    assert _usual_body(line) is None
    assert member_span(line, (b"response", b"body")) is None


@given(LINES, st.data())
def test_a_mangled_line_is_answered_with_valid_json_or_not_at_all(value, data):
    text = data.draw(written(value)).encode()
    at = data.draw(st.integers(0, len(text) - 1))
    mangled = text[:at] + data.draw(st.binary(max_size=3)) + text[at + 1 :]

    read = result_line(mangled)

    if read.kind is LineKind.ANSWERED:
        assert read.custom_id == json.loads(mangled)["custom_id"]
        assert json.loads(read.body) == json.loads(mangled)["response"]["body"]


@given(LINES, st.data())
def test_a_line_that_breaks_off_is_unreadable(value, data):
    line = json.dumps(value).encode()
    cut = data.draw(st.integers(1, len(line) - 1))

    assert result_line(line[:cut]).kind is LineKind.UNREADABLE


@given(st.binary(max_size=60))
@example(b"[" * 100_000)
@example(b'{"custom_id":"a","response":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001)
@example(b"\xef\xbb\xbf{}")
@example(b"{}")
@example(b"null")
def test_no_line_at_all_makes_reading_fail(line):
    assert result_line(line).kind in LineKind


def test_an_answer_cut_off_in_a_surrogate_pair_is_still_an_answer():
    line = b'{"custom_id":"a","response":{"status_code":200,"body":{"content":"\\ud83d"}}}'

    read = result_line(line)

    assert read.body == b'{"content":"\\ud83d"}'
    assert read.content == {"content": "\ufffd"}


def test_an_answer_deeper_than_the_fast_parser_goes_is_still_an_answer():
    body = b'{"a":' * 300 + b"1" + b"}" * 300
    line = b'{"custom_id":"a","response":{"status_code":200,"body":%b}}' % body

    assert result_line(line).body == body


# Lines as OpenAI's Batch guide shows them, and as seen in the wild.
SHAPES = {
    "success": (
        (
            b'{"id":"batch_req_9f","custom_id":"req-7","response":{"status_code":200,'
            b'"request_id":"req_ab","body":{"id":"chatcmpl-1"}},"error":null}'
        ),
        (LineKind.ANSWERED, "req-7", 200, b'{"id":"chatcmpl-1"}', "req_ab", None),
    ),
    "an HTTP failure leaves the error member null": (
        (
            b'{"id":"batch_req_a0","custom_id":"req-8","response":{"status_code":400,'
            b'"request_id":"req_cd","body":{"error":{"message":"m","type":"invalid_request_error",'
            b'"param":"temperature","code":"unsupported_value"}}},"error":null}'
        ),
        (
            LineKind.ANSWERED,
            "req-8",
            400,
            (
                b'{"error":{"message":"m","type":"invalid_request_error",'
                b'"param":"temperature","code":"unsupported_value"}}'
            ),
            "req_cd",
            "unsupported_value",
        ),
    ),
    "no credit": (
        (
            b'{"custom_id":"q","response":{"status_code":429,"body":{"error":{"message":"m",'
            b'"type":"insufficient_quota","code":null}}},"error":null}'
        ),
        (
            LineKind.ANSWERED,
            "q",
            429,
            b'{"error":{"message":"m","type":"insufficient_quota","code":null}}',
            None,
            "insufficient_quota",
        ),
    ),
    "expired": (
        (
            b'{"id":"batch_req_b1","custom_id":"req-9","response":null,"error":'
            b'{"code":"batch_expired","message":"This request could not be executed."}}'
        ),
        (LineKind.NOT_EXECUTED, "req-9", 0, b"", None, "batch_expired"),
    ),
    "status 0": (
        b'{"custom_id":"z","response":{"status_code":0,"request_id":"","body":null},"error":null}',
        (LineKind.NOT_EXECUTED, "z", 0, b"", None, NO_STATUS),
    ),
    "status 0 with a reason": (
        b'{"custom_id":"z","response":{"status_code":0},"error":{"code":"batch_cancelled"}}',
        (LineKind.NOT_EXECUTED, "z", 0, b"", None, "batch_cancelled"),
    ),
    "an answer that was paid counts even beside an error": (
        b'{"custom_id":"p","response":{"status_code":200,"body":[]},"error":{"code":"late"}}',
        (LineKind.ANSWERED, "p", 200, b"[]", None, None),
    ),
    "an empty error is none": (
        b'{"custom_id":"e","error":{},"response":{"status_code":200,"body":{}}}',
        (LineKind.ANSWERED, "e", 200, b"{}", None, None),
    ),
    "a failure without a body": (
        b'{"custom_id":"g","response":{"status_code":502},"error":null}',
        (LineKind.ANSWERED, "g", 502, b"", None, None),
    ),
    "a success without a body": (
        b'{"custom_id":"g","response":{"status_code":200},"error":null}',
        (LineKind.UNREADABLE, "g", 0, b"", None, None),
    ),
    "a success whose body is nothing": (
        b'{"custom_id":"g","response":{"status_code":200,"body":null},"error":null}',
        (LineKind.UNREADABLE, "g", 0, b"", None, None),
    ),
    "a success whose body is nothing, beside an error": (
        b'{"custom_id":"g","response":{"status_code":200,"body":null},"error":{"code":"late"}}',
        (LineKind.NOT_EXECUTED, "g", 0, b"", None, "late"),
    ),
    "a failure whose body is nothing": (
        b'{"custom_id":"g","response":{"status_code":502,"body":null},"error":null}',
        (LineKind.ANSWERED, "g", 502, b"null", None, None),
    ),
    "a status that no server sends": (
        b'{"custom_id":"w","response":{"status_code":99999999999999999999,"body":{}},"error":null}',
        (LineKind.UNREADABLE, "w", 0, b"", None, None),
    ),
    "a status that is none": (
        b'{"custom_id":"w","response":{"status_code":true,"body":{}},"error":{"code":"late"}}',
        (LineKind.NOT_EXECUTED, "w", 0, b"", None, "late"),
    ),
    "a status as text": (
        b'{"custom_id":"v","response":{"status_code":"200","body":{}},"error":null}',
        (LineKind.ANSWERED, "v", 200, b"{}", None, None),
    ),
    "a status with a fraction of nothing": (
        b'{"custom_id":"v","response":{"status_code":400.0,"body":{}},"error":null}',
        (LineKind.ANSWERED, "v", 400, b"{}", None, None),
    ),
    "a status with a fraction": (
        b'{"custom_id":"w","response":{"status_code":200.5,"body":{}},"error":null}',
        (LineKind.UNREADABLE, "w", 0, b"", None, None),
    ),
    "a status beyond all numbers": (
        b'{"custom_id":"w","response":{"status_code":NaN,"body":{}},"error":null}',
        (LineKind.UNREADABLE, "w", 0, b"", None, None),
    ),
    "a request ID that no store and no header takes": (
        (
            b'{"custom_id":"u","response":{"status_code":200,"request_id":"\\ud800\\r\\n",'
            b'"body":{}},"error":null}'
        ),
        (LineKind.ANSWERED, "u", 200, b"{}", None, None),
    ),
    "neither response nor error": (
        b'{"custom_id":"n","response":null,"error":null}',
        (LineKind.UNREADABLE, "n", 0, b"", None, None),
    ),
    "a text for a body": (
        b'{"custom_id":"h","response":{"status_code":502,"body":"<html>"},"error":null}',
        (LineKind.ANSWERED, "h", 502, b'"<html>"', None, None),
    ),
    "an error within a list of one": (
        (
            b'{"custom_id":"l","response":{"status_code":400,"body":[{"error":{"code":400,'
            b'"status":"INVALID_ARGUMENT"}}]},"error":null}'
        ),
        (
            *(LineKind.ANSWERED, "l", 400),
            b'[{"error":{"code":400,"status":"INVALID_ARGUMENT"}}]',
            *(None, "INVALID_ARGUMENT"),
        ),
    ),
    "broken after the name": (
        b'{"id":"b\\"}","custom_id" : "k\\u0031","response":{"status_code":200,"bo',
        (LineKind.UNREADABLE, "k1", 0, b"", None, None),
    ),
    "broken before the name": (
        b'{"id":"batch_req","response":{"custom_id":"other"',
        (LineKind.UNREADABLE, None, 0, b"", None, None),
    ),
    "no name": (
        b'{"response":{"status_code":200,"body":{}}}',
        (LineKind.UNREADABLE, None, 0, b"", None, None),
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_of_a_line_is_told_apart(shape):
    line, expected = SHAPES[shape]

    read = result_line(line)

    assert (
        read.kind,
        read.custom_id,
        read.status_code,
        read.body,
        read.request_id,
        read.error_code,
    ) == expected


def good_line(name: str, padding: int = 0) -> bytes:
    body = b'{"a":"%s"}' % (b"x" * padding)
    return b'{"custom_id":"%s","response":{"status_code":200,"body":%s}}' % (name.encode(), body)


@given(
    st.lists(st.sampled_from(["a", "b", "c"]), max_size=6),
    st.sampled_from([b"\n", b"\r\n", b"\n\n"]),
    st.booleans(),
    st.integers(1, 200),
)
def test_lines_are_found_however_the_stream_is_cut(names, line_break, ends_with_break, step):
    stream = line_break.join(good_line(name) for name in names)
    stream += line_break if ends_with_break else b""
    cutter = LineCutter()

    pieces = [stream[at : at + step] for at in range(0, len(stream), step)]
    lines = [line for piece in pieces for line in cutter.feed(piece)] + cutter.end()

    assert [line.custom_id for line in lines] == names
    assert all(line.kind is LineKind.ANSWERED for line in lines)


@pytest.mark.parametrize("step", [1_000, 100_000])
def test_a_line_beyond_the_limit_is_overlong_and_the_next_one_is_read(step):
    stream = b"\n".join((good_line("a"), good_line("huge", 50_000), good_line("b")))
    cutter = LineCutter(line_bytes_max=20_000)

    pieces = [stream[at : at + step] for at in range(0, len(stream), step)]
    lines = [line for piece in pieces for line in cutter.feed(piece)] + cutter.end()

    assert [(line.custom_id, line.kind) for line in lines] == [
        ("a", LineKind.ANSWERED),
        ("huge", LineKind.OVERLONG),
        ("b", LineKind.ANSWERED),
    ]


def test_a_file_without_line_breaks_is_not_kept():
    cutter = LineCutter(line_bytes_max=10_000)

    for _ in range(1_000):
        assert cutter.feed(b"x" * 10_000) == []

    assert len(cutter._begun) < 10_000
    assert [line.kind for line in cutter.end()] == [LineKind.UNREADABLE]
    # Asked for again, it would be as long.
    assert cutter.is_whole


@pytest.mark.parametrize(
    ("tail", "is_whole"),
    [(b"", True), (good_line("b"), True), (b"broken\n", True), (good_line("b")[:-9], False)],
    ids=["a line break", "a line", "a broken line with its break", "a part of a line"],
)
def test_a_file_that_ends_within_a_line_is_not_whole(tail, is_whole):
    cutter = LineCutter()

    read = cutter.feed(good_line("a") + b"\n" + tail) + cutter.end()

    assert read[0].custom_id == "a"
    assert cutter.is_whole is is_whole


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_a_mark_of_the_byte_order_is_no_part_of_the_first_line(parts):
    lines = [
        b'{"custom_id":"job-%d","response":{"status_code":200,"body":{"n":%d}}}\n' % (n, n)
        for n in range(2)
    ]
    data, cutter = b"\xef\xbb\xbf" + b"".join(lines), LineCutter()

    read = [line for at in range(parts) for line in cutter.feed(data[at : at + 1])]
    read += cutter.feed(data[parts:])

    assert [(line.custom_id, line.body) for line in read] == [
        ("job-0", b'{"n":0}'),
        ("job-1", b'{"n":1}'),
    ]
