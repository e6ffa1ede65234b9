"""Anthropic's result lines: told apart, and cut out byte for byte."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ports.provider import LineKind
from proxy.providers.anthropic_lines import result_line
from proxy.providers.result_lines import LineCutter

MESSAGE = b'{ "id":"msg_1", "content":[{"type":"text","text":"a \\u00e9 } \\" {"}] }'
ERROR = b'{"type":"error","error":{"type":"%b","message":"no"}, "request_id":"req_2"}'

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["message", "result", "error", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def test_a_message_is_a_success_with_its_exact_bytes():
    line = b'{"custom_id":"j-1","result":{"type":"succeeded","message":%b}}' % MESSAGE

    read = result_line(line)

    assert (read.kind, read.custom_id, read.status_code) == (LineKind.ANSWERED, "j-1", 200)
    assert (read.body, read.content) == (MESSAGE, json.loads(MESSAGE))


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (b"invalid_request_error", 400),
        (b"authentication_error", 401),
        (b"billing_error", 402),
        (b"permission_error", 403),
        (b"not_found_error", 404),
        (b"request_too_large", 413),
        (b"rate_limit_error", 429),
        (b"api_error", 500),
        (b"timeout_error", 504),
        (b"overloaded_error", 529),
        (b"error_of_tomorrow", 500),
    ],
)
def test_an_error_has_the_status_of_its_type_and_its_envelope_as_the_body(kind, status):
    envelope = ERROR % kind
    line = b'{"custom_id":"j-1","result":{"type":"errored","error": %b }}' % envelope

    read = result_line(line)

    assert (read.kind, read.status_code) == (LineKind.ANSWERED, status)
    assert read.body == envelope
    assert (read.error_code, read.request_id) == (kind.decode(), "req_2")


@pytest.mark.parametrize(
    ("word", "code"),
    [("canceled", "cancelled"), ("cancelled", "cancelled"), ("expired", "expired")],
)
def test_what_never_ran_says_so(word, code):
    read = result_line(b'{"custom_id":"j-1","result":{"type":"%b"}}' % word.encode())

    assert (read.kind, read.error_code) == (LineKind.NOT_EXECUTED, code)


@pytest.mark.parametrize(
    ("line", "custom_id"),
    [
        (b"nonsense", None),
        (b"[]", None),
        (b'{"result":{"type":"expired"}}', None),
        (b'{"custom_id":"j-1"}', "j-1"),
        (b'{"custom_id":"j-1","result":{"type":"succeeded"}}', "j-1"),
        (b'{"custom_id":"j-1","result":{"type":"pondered"}}', "j-1"),
        (b'{"custom_id":"j-1","result":{"type":["expired"]}}', "j-1"),
        (b'{"custom_id":"j-1","result":{"type":"succeeded","message":{"id', "j-1"),
    ],
)
def test_a_broken_line_keeps_its_name_if_it_can_be_read(line, custom_id):
    read = result_line(line)

    assert (read.kind, read.custom_id) == (LineKind.UNREADABLE, custom_id)


@given(message=st.dictionaries(st.text(max_size=5), values, max_size=4), data=st.data())
def test_the_message_is_found_wherever_it_stands(message, data):
    body = json.dumps(message)
    result = [f'"message": {body}', '"type": "succeeded"', f'"x": {json.dumps(message)}']
    members = ['"custom_id": "j-1"', '"y": {"message": [1]}']
    inner = data.draw(st.permutations(result[: data.draw(st.integers(1, 3))]))
    outer = data.draw(st.permutations([*members, f'"result": {{{", ".join(inner)}}}']))

    read = result_line(f"{{{', '.join(outer)}}}".encode())

    assert read.body == body.encode()


def test_a_stream_of_them_is_cut_at_its_line_breaks():
    lines = [
        b'{"custom_id":"j-%d","result":{"type":"succeeded","message":%b}}' % (n, MESSAGE)
        for n in range(20)
    ]
    stream = b"\n".join(lines)
    cutter = LineCutter(result_line)

    read = [one for at in range(0, len(stream), 7) for one in cutter.feed(stream[at : at + 7])]
    read += cutter.end()

    assert [one.custom_id for one in read] == [f"j-{n}" for n in range(20)]
    assert {one.body for one in read} == {MESSAGE}
