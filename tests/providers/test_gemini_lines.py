"""Gemini's result lines and inline results, as seen on the wire, cut anywhere."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ports.provider import LineKind, ResultLine
from proxy.providers.gemini_lines import inline_cutter, result_line
from proxy.providers.result_lines import LineCutter

ANSWER = b'{"candidates" : [{"content":{"parts":[{"text":"}]\\"{"}]}}],  "n":1e400}'


def told(line: ResultLine) -> Any:
    return json.loads(line.body)["error"]


@pytest.mark.parametrize(
    "line",
    [
        b'{"key":"a","response":' + ANSWER + b"}",
        b' {"response": ' + ANSWER + b' , "key" : "a"} ',
        b'{"metadata":{"key":"a"},"response":' + ANSWER + b"}",
        b'{"response":' + ANSWER + b',"metadata":{"key":"a","x":1}}',
        b'{"key":"a","response":{"x":1},"response":' + ANSWER + b"}",
        b'{"key":"a","error":{"code":3},"response":' + ANSWER + b"}",
    ],
)
def test_an_answer_is_the_exact_bytes_of_its_response(line):
    read = result_line(line)

    assert (read.kind, read.custom_id, read.status_code) == (LineKind.ANSWERED, "a", 200)
    assert (read.body, read.content) == (ANSWER, json.loads(ANSWER))


@pytest.mark.parametrize("member", ["error", "status"])
@pytest.mark.parametrize(
    ("code", "status", "name"),
    [
        (3, 400, "INVALID_ARGUMENT"),
        (8, 429, "RESOURCE_EXHAUSTED"),
        (14, 503, "UNAVAILABLE"),
        (429, 429, "RESOURCE_EXHAUSTED"),
        (418, 418, "UNKNOWN"),
        (77, 500, "UNKNOWN"),
        (None, 500, "UNKNOWN"),
    ],
)
def test_an_error_is_told_as_the_api_would_have_answered(member, code, status, name):
    line = json.dumps({"key": "a", member: {"code": code, "message": "why"}}).encode()

    read = result_line(line)

    assert (read.kind, read.custom_id, read.status_code) == (LineKind.ANSWERED, "a", status)
    assert told(read) == {"code": status, "message": "why", "status": name}
    assert read.error_code == name


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"code": "3", "message": "why"}, 400),
        ({"status": "INVALID_ARGUMENT", "message": "why"}, 400),
        ({"code": None, "status": "RESOURCE_EXHAUSTED"}, 429),
        ({"code": 429, "status": "RESOURCE_EXHAUSTED"}, 429),
        ({"code": [3], "status": ["x"]}, 500),
    ],
)
@pytest.mark.parametrize("beside", [{}, {"response": {}}, {"response": None}])
def test_an_error_is_known_by_its_number_or_by_its_name(error, status, beside):
    line = json.dumps({"key": "a", **beside, "error": error}).encode()

    read = result_line(line)

    assert (read.kind, read.status_code) == (LineKind.ANSWERED, status)
    assert told(read)["code"] == status


def test_the_reason_of_an_error_counts_and_its_details_are_kept():
    details = [{"reason": "BILLING_DISABLED"}]
    line = json.dumps({"metadata": {"key": "a"}, "error": {"code": 7, "details": details}}).encode()

    read = result_line(line)

    assert (read.status_code, read.error_code) == (403, "BILLING_DISABLED")
    assert told(read) == {
        "code": 403,
        "message": "",
        "status": "PERMISSION_DENIED",
        "details": details,
    }


@pytest.mark.parametrize(
    ("line", "custom_id"),
    [
        (b'{"key":"a"}', "a"),
        (b'{"key":"a","response":null,"error":{}}', "a"),
        (b'{"key":"a","response":{"can', "a"),
        (b'{"metadata":{"key":"a"},"response":{"can', "a"),
        (b'{"response":{},"key":"a', None),
        (b'{"key":"","response":{}}', None),
        (b'{"response":{}}', None),
        (b"[]", None),
        (b"null", None),
        (b"\xff", None),
    ],
)
def test_a_broken_line_says_so_with_its_key_where_that_can_be_read(line, custom_id):
    read = result_line(line)

    assert (read.kind, read.custom_id) == (LineKind.UNREADABLE, custom_id)


texts = st.text(max_size=30)
elements = st.lists(
    st.fixed_dictionaries({"text": texts, "list": st.lists(st.dictionaries(texts, texts))}),
    max_size=5,
)


def operation(inlined: list[Any], name: str = "inlinedResponses") -> Any:
    output = {name: {"inlinedResponses": inlined}}
    return {
        "metadata": {"displayName": "x[{", "output": output},
        "done": True,
        "response": output,
    }


def cut(raw: bytes, size: int) -> list[ResultLine]:
    cutter = inline_cutter()
    return [line for at in range(0, len(raw), size) for line in cutter.feed(raw[at : at + size])]


@given(elements, st.integers(1, 40), st.sampled_from([None, 1]))
def test_inline_results_are_cut_out_wherever_the_stream_is_cut(made, size, indent):
    inlined = [{"metadata": {"key": f"k{n}"}, "response": one} for n, one in enumerate(made)]
    raw = json.dumps(operation(inlined), indent=indent, ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )

    lines = cut(raw, size)

    assert [line.custom_id for line in lines] == [f"k{n}" for n in range(len(made))]
    assert [json.loads(line.body) for line in lines] == made


def test_embeddings_are_inlined_under_another_name():
    inlined = [{"metadata": {"key": "a"}, "response": {"embedding": {"values": [1]}}}]
    raw = json.dumps(operation(inlined, "inlinedEmbedContentResponses")).encode()

    (line,) = cut(raw, 7)

    assert line.body == b'{"embedding": {"values": [1]}}'


@pytest.mark.parametrize("raw", [b"{}", b'{"metadata":{}}', b'{"error":{"code":13}}', b"x" * 500])
def test_an_operation_without_results_has_none(raw):
    assert cut(raw, 10) == []


def test_an_element_that_is_too_long_says_so_with_its_key(monkeypatch):
    cutter = inline_cutter()
    monkeypatch.setattr(cutter, "_item_bytes_max", 1_000)
    element = b'{"metadata":{"key":"a"},"response":{"t":"' + b"x" * 5_000 + b'"}}'
    raw = b'{"response":{"inlinedResponses":[' + element + b"]}}"

    (line,) = [line for at in range(0, len(raw), 100) for line in cutter.feed(raw[at : at + 100])]

    assert (line.kind, line.custom_id) == (LineKind.OVERLONG, "a")


def test_a_line_that_is_too_long_says_so_with_its_key():
    cutter = LineCutter(result_line, line_bytes_max=1_000)

    (line,) = cutter.feed(b'{"key":"a","response":{"t":"' + b"x" * 5_000 + b'"}}\n')

    assert (line.kind, line.custom_id) == (LineKind.OVERLONG, "a")
