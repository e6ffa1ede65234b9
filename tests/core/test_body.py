"""The body of a call: what is read, what is cut out, and what stays as it was written."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.body import (
    BRACKETS_MAX,
    COMMAS_MAX,
    DROPPED_FIELDS,
    MAX_DEPTH,
    NAMES_MAX,
    carries_data,
    estimate_tokens,
    line_body,
    parse_body,
    with_model,
)
from proxy.core.errors import CallerError

MINIMAL = b'{"model":"m","messages":[{"role":"user","content":"hi"}]'


def spliced(body):
    return line_body(parse_body(body, max_bytes=1_000_000))


def test_a_plain_body_is_spliced_byte_for_byte():
    body = b' {"model": "m",\t"messages":[{"content":"\xc3\xa9 \\u00e9 \\/"}],"seed":1E2 } '

    assert spliced(body) == body


@pytest.mark.parametrize("name", sorted(DROPPED_FIELDS))
def test_a_field_that_the_lane_decides_is_cut_out_and_the_rest_stays(name):
    value = b'{"include_usage":true}' if name == "stream_options" else b"null"
    body = MINIMAL + b', "%b" : %b,"seed":7.50}' % (name.encode(), value)

    assert spliced(body) == MINIMAL + b',"seed":7.50}'


def test_a_field_is_cut_out_also_if_its_name_is_written_with_escapes():
    assert spliced(MINIMAL + b',"str\\u0065am":true}') == MINIMAL + b"}"


def test_an_object_may_be_empty_once_or_from_the_start():
    assert spliced(b' {"stream":true } ') == b"{}"
    assert spliced(b"\xef\xbb\xbf{ }") == b"{ }"


def test_a_nested_field_of_a_dropped_name_stays():
    body = MINIMAL + b',"metadata":{"stream":"yes"}}'

    assert spliced(body) == body


def test_of_two_members_of_one_name_the_last_counts():
    body = b'{"model":"old",' + MINIMAL[1:] + b"}"

    parsed = parse_body(body, max_bytes=1_000_000)

    assert line_body(parsed) == MINIMAL + b"}"
    assert parsed.fields["model"] == "m"


@pytest.mark.parametrize(
    ("first", "last"),
    [(b'"mod\\u0065l":1', MINIMAL[1:]), ('"й":1'.encode(), MINIMAL[1:] + b',"\\u0439":2')],
)
def test_of_two_members_one_of_which_is_written_with_escapes_the_last_counts(first, last):
    assert spliced(b"{" + first + b"," + last + b"}") == b"{" + last + b"}"


def test_a_name_that_stands_in_a_value_too_is_no_second_member():
    body = MINIMAL[:-1] + b',{"role":"user","content":"\\"model\\":1","name":"model"}]}'

    assert spliced(body) == body


def test_a_pretty_printed_body_becomes_one_line():
    body = json.dumps(json.loads(MINIMAL + b"}"), indent=2).replace("\n", "\r\n").encode()

    line = spliced(body)

    assert b"\n" not in line
    assert b"\r" not in line
    assert json.loads(line) == json.loads(body)


def test_a_byte_order_mark_is_cut_off():
    assert spliced(b"\xef\xbb\xbf" + MINIMAL + b"}") == MINIMAL + b"}"


def test_numbers_and_lone_surrogates_survive_a_rewriting():
    kept = b'"a":123456789012345678901234567890,"b":0.10000000000000000001,"c":1e400,"d":"\\ud83d"'

    line = spliced(MINIMAL + b',"stream":false,' + kept + b"}")

    assert line == MINIMAL + b"," + kept + b"}"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@settings(max_examples=40)
@given(
    st.dictionaries(st.text() | st.sampled_from(sorted(DROPPED_FIELDS)), JSON),
    st.sampled_from([None, 2, "\t"]),
    st.booleans(),
)
def test_a_line_says_what_the_body_said_but_for_the_dropped_fields(fields, indent, ascii_only):
    body = json.dumps(fields, indent=indent, ensure_ascii=ascii_only)

    line = spliced(body.encode("utf-8"))

    expected = {key: value for key, value in fields.items() if key not in DROPPED_FIELDS}
    assert b"\n" not in line
    assert json.loads(line) == expected


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "must be an object"),
        (b"[1]", "must be an object"),
        (b'"text"', "must be an object"),
        (b"{", "a name is missing at character 1"),
        (b'{"a" 1}', "a colon is missing"),
        (b'{"a":tru}', "Expecting value at character 5"),
        (b'{"a":1 "b":2}', "a comma or a brace is missing at character 7"),
        (b'{"a":1,}', "a name is missing at character 7"),
        (b'{"a":1} x', "something follows its end at character 8"),
        (b'{"a":NaN}', "NaN is no JSON number"),
        (b'{"a":[-Infinity]}', "-Infinity is no JSON number"),
        (b'{"a":"x\ny"}', "Invalid control character"),
        (b'{"a":"\xff"}', "byte 6 is no UTF-8"),
        (b'{"a":"\xed\xa0\x80"}', "no UTF-8"),
        (b'{"a":' + b"[" * 100_000, "nested deeper"),
        (b'{"a":' + b"1" * 5000 + b"}", "a number that is too long"),
    ],
)
def test_what_is_no_json_object_is_refused_with_the_reason(body, reason):
    with pytest.raises(CallerError) as refusal:
        parse_body(body, max_bytes=1_000_000)

    assert refusal.value.code == "invalid_json"
    assert refusal.value.http_status == 400
    assert reason in refusal.value.message


def test_nesting_is_bounded_exactly():
    deepest = b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    parse_body(deepest, max_bytes=1_000_000)

    with pytest.raises(CallerError, match="nested deeper"):
        parse_body(b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", max_bytes=1_000_000)


def test_many_brackets_side_by_side_are_not_deep():
    parse_body(b'{"a":[' + b",".join([b"[]"] * 1000) + b"]}", max_bytes=1_000_000)


@pytest.mark.parametrize(("names", "chars"), [(1_000, 1), (60, 1_000_000)])
def test_a_long_body_of_many_names_is_looked_through_a_few_times(names, chars):
    class Counted(bytes):
        looks = 0

        def count(self, *sought):
            Counted.looks += 1
            return super().count(*sought)

    names = {f"name_{number}": "x" * (chars if number == 0 else 1) for number in range(names)}
    body = Counted(json.dumps(names).encode())

    parsed = parse_body(body, max_bytes=2_000_000)

    assert (parsed.fields, line_body(parsed)) == (names, body)
    assert Counted.looks < 10


@pytest.mark.parametrize("stream", [b"", b'"stream":true,'])
@pytest.mark.parametrize("name", [b'"a":1,', b'"a%d":1,'])
def test_a_body_has_names_up_to_a_bound(stream, name):
    def body(count):
        names = b"".join(name % number if b"%" in name else name for number in range(count - 1))
        return b"{" + names + (stream or b'"c":1,').rstrip(b",") + b"}"

    parse_body(body(NAMES_MAX), max_bytes=1_000_000)

    with pytest.raises(CallerError, match="more than 10000 names"):
        parse_body(body(NAMES_MAX + 1), max_bytes=1_000_000)


def test_a_body_has_brackets_up_to_a_bound():
    parse_body(b'{"a":"' + b"[" * (BRACKETS_MAX - 1) + b'"}', max_bytes=10_000_000)

    with pytest.raises(CallerError, match="more than 500000 brackets"):
        parse_body(b'{"a":[' + b"[]," * BRACKETS_MAX + b"1]}", max_bytes=10_000_000)


def test_a_body_has_commas_up_to_a_bound():
    parsed = parse_body(b'{"a":"' + b"," * COMMAS_MAX + b'"}', max_bytes=10_000_000)
    assert parsed.fields["a"] == "," * COMMAS_MAX

    with pytest.raises(CallerError, match="more than 1000000 commas"):
        parse_body(b'{"a":[' + b"1," * COMMAS_MAX + b'1],"b":1}', max_bytes=10_000_000)


def test_a_body_above_our_bound_is_refused_with_both_lengths():
    with pytest.raises(CallerError, match=r"has 11 bytes.*may have 10") as refusal:
        parse_body(b'{"a":"bcd"}', max_bytes=10)

    assert refusal.value.code == "request_too_large"


@pytest.mark.parametrize(
    ("body", "renamed"),
    [
        (b'{"model":"a","n":1e2}', b'{"model":"b","n":1e2}'),
        (b'{ "x" : [ 1.0 ] , "model" : "\\u0061" }', b'{"x" : [ 1.0 ],"model":"b"}'),
        (
            b'{"mode\\u006c":"a","metadata":{"model":"a"}}',
            b'{"model":"b","metadata":{"model":"a"}}',
        ),
        ('{"model":"a","é":"\\\\u00e9"}'.encode(), '{"model":"b","é":"\\\\u00e9"}'.encode()),
    ],
)
def test_another_model_is_named_and_nothing_else_is_touched(body, renamed):
    assert with_model(body, "b") == renamed


@pytest.mark.parametrize(
    ("more", "streams", "include_usage"),
    [
        (b"}", False, False),
        (b',"stream":false}', False, False),
        (b',"stream":true}', True, False),
        (b',"stream":true,"stream_options":{"include_usage":true}}', True, True),
        (b',"stream":true,"stream_options":null}', True, False),
    ],
)
def test_it_tells_whether_a_stream_is_asked_for_and_usage_at_its_end(more, streams, include_usage):
    parsed = parse_body(MINIMAL + more, max_bytes=1_000_000)

    assert (parsed.streaming is not None, parsed.include_usage) == (streams, include_usage)


def test_tokens_are_a_quarter_of_the_bytes_and_an_attachment_counts_by_piece():
    assert estimate_tokens(b"") == 0
    assert estimate_tokens(b"abcde") == 2
    assert estimate_tokens(b'"data:image/png;base64,%b"' % (b"A" * 400_000)) == 1_000
    assert estimate_tokens(b'"%b" "%b"' % (b"A" * 2_000, b"B" * 2_000)) == 2_001


@pytest.mark.parametrize(
    ("part", "carries"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0"}}, True),
        ({"type": "input_image", "image_url": "data:image/png;base64,iVBORw0"}, True),
        ({"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBE"}}, True),
        ({"type": "input_audio", "input_audio": {"data": "UklGR", "format": "wav"}}, True),
        ({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}, False),
        ({"type": "text", "text": "a data:image/png;base64, within a text"}, False),
        ({"type": "text", "text": "data: none; really"}, False),
    ],
)
def test_it_tells_what_a_call_carries_from_what_it_names(part, carries):
    assert carries_data(json.dumps({"messages": [{"content": [part]}]}).encode()) is carries
