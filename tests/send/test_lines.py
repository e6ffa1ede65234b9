"""Files of calls in every form that people have, and complaints that name the line."""

import json
from pathlib import Path

import pytest

from proxy.core.errors import CallerError
from proxy.send.lines import CHAT, read_line, read_lines

FILE = Path("calls.jsonl")
BODY = {"model": "gpt-4o-mini", "messages": []}


def line(content, number=7, endpoint=CHAT):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return read_line(text, number, file=FILE, endpoint=endpoint)


@pytest.mark.parametrize(
    ("content", "url", "custom_id"),
    [
        ({"custom_id": "a", "method": "POST", "url": "/v1/x", "body": BODY}, "/v1/x", "a"),
        ({"custom_id": "a", "params": BODY}, "/v1/messages", "a"),
        ({"body": BODY}, CHAT, None),
        ({"url": "/groq/v1/x", "body": BODY}, "/groq/v1/x", None),
        (BODY, CHAT, None),
    ],
)
def test_every_form_of_a_call_is_read(content, url, custom_id):
    read = line(content)

    assert (read.number, read.url, read.custom_id) == (7, url, custom_id)
    assert json.loads(read.body) == BODY


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"body"', "8: is no JSON: expecting ':' delimiter"),
        (b"{\n", "2: is no JSON: expecting property name enclosed in double quotes"),
        (b'{"body": {}} {}', "14: is no JSON: extra data"),
        (b'{"a": "caf\xe9"}', "11: is no JSON: it is not UTF-8"),
    ],
)
def test_a_line_that_is_no_json_is_named_with_its_column(content, problem):
    with pytest.raises(CallerError) as raised:
        line(content)

    assert raised.value.message == f"calls.jsonl:7:{problem}"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"[" * 100_000, "is no JSON: it is nested too deeply"),
        (b"[]", "is no JSON object"),
        ({"body": []}, "`body` must be an object"),
        ({"body": BODY, "url": "https://api.openai.com/v1"}, "`url` must be a path"),
        ({"body": BODY, "url": "/v1/a b"}, "`url` must be a path"),
        ({"body": BODY, "url": 1}, "`url` must be a path"),
        ({"body": BODY, "method": "GET"}, "`method` must be POST"),
        ({"body": BODY, "custom_id": 1}, "`custom_id` must be a string"),
    ],
)
def test_a_line_that_is_no_call_is_named(content, problem):
    with pytest.raises(CallerError) as raised:
        line(content)

    assert raised.value.message.startswith("calls.jsonl:7: ")
    assert problem in raised.value.message


@pytest.mark.parametrize(
    ("url", "provider"),
    [
        (CHAT, "openai"),
        ("/v1/messages?beta=true", "anthropic"),
        ("/v1/models/gemini-x:generateContent", "gemini"),
        ("/v1beta/models/gemini-x:generateContent", "gemini"),
        ("/v1beta/openai/chat/completions", "gemini-openai"),
        ("/groq/v1/chat/completions", "groq"),
        ("/anthropic/v1/messages", "anthropic"),
    ],
)
def test_the_path_says_whose_key_is_needed(url, provider):
    assert line({"url": url, "body": BODY}).provider == provider


def test_the_digest_tells_lines_apart_but_not_line_ends():
    assert line(b'{"a": 1}\r\n').digest == line(b'{"a": 1}').digest
    assert line(b'{"a": 1}').digest != line(b'{"a":  1}').digest


@pytest.mark.parametrize(
    ("content", "depends"),
    [
        (BODY, True),
        ({**BODY, "url": "/v1/x"}, True),
        ({"body": BODY}, True),
        ({"body": BODY, "url": "/v1/x"}, False),
        ({"params": BODY}, False),
    ],
)
def test_a_line_that_names_no_path_is_another_one_with_another_endpoint(content, depends):
    digests = {line(content, endpoint=path).digest for path in (CHAT, "/v1/x", "/v1/y")}

    assert len(digests) == (3 if depends else 1)


def test_text_is_sent_as_it_was_meant():
    body = line('{"a": "\\ud83d\\ude00 é"}'.encode()).body

    assert body == '{"a":"😀 é"}'.encode()


def test_half_a_surrogate_pair_is_sent_as_the_escape_that_it_came_as():
    body = line(b'{"a": "\xc3\xa9\\ud800"}').body

    assert body == b'{"a":"\\u00e9\\ud800"}'


def test_reading_goes_on_behind_a_line(tmp_path):
    file = tmp_path / "calls"
    file.write_text("no call\n" + json.dumps(BODY) + "\n" + json.dumps(BODY))

    assert [read.number for read in read_lines(file, endpoint=CHAT, after=1)] == [2, 3]
