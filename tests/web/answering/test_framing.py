"""What held answers look like on the wire, without a wire."""

import json

import pytest

from proxy.core.dialects import Family, Shape, Streaming
from proxy.web.answering.final import FinalAnswer
from proxy.web.answering.framing import framing_for
from tests.web.desk import chat_completion, spaced

JSON = framing_for(Family.OPENAI, Shape.CHAT, streaming=None, include_usage=False)
EVENTS = framing_for(Family.OPENAI, Shape.CHAT, streaming=Streaming.EVENTS, include_usage=False)
DONE = FinalAnswer(
    200,
    (("content-type", "application/json"), ("X-Deferrable-Job", "job_1")),
    spaced(chat_completion()),
)
REFUSED = FinalAnswer(429, (("Content-Type", "application/json"),), b'{"error": {"code": "slow"}}')


def test_json_is_told_byte_for_byte_early_and_late():
    assert JSON.early(DONE) == DONE
    assert JSON.late(DONE) == DONE.body
    assert JSON.early(REFUSED) == REFUSED


def test_a_late_failure_of_json_cannot_be_told():
    assert JSON.late(REFUSED) is None


def test_an_early_stream_keeps_the_headers_but_for_the_type():
    early = EVENTS.early(DONE)

    names = [name.lower() for name, _ in early.headers]
    assert names.count("content-type") == 1
    assert dict(early.headers)["Content-Type"].startswith("text/event-stream")
    assert ("X-Deferrable-Job", "job_1") in early.headers
    assert early.body == EVENTS.late(DONE)


def test_an_early_failure_of_a_stream_is_the_failure():
    assert EVENTS.early(REFUSED) == REFUSED


@pytest.mark.parametrize("framing", [JSON, EVENTS])
def test_no_proxy_on_the_way_may_collect_heartbeats(framing):
    assert ("X-Accel-Buffering", "no") in framing.headers


@pytest.mark.parametrize("shape", [Shape.CHAT, Shape.RESPONSES])
def test_a_late_failure_of_a_stream_is_an_event_with_the_providers_error(shape):
    framing = framing_for(Family.OPENAI, shape, streaming=Streaming.EVENTS, include_usage=False)

    body = framing.late(REFUSED)

    assert body is not None
    assert body.endswith(b"\n\n")
    data = json.loads(body.partition(b"data: ")[2])
    assert data["error"] == {"code": "slow"}
    if shape is Shape.RESPONSES:
        assert body.startswith(b"event: error\n")
        assert data.items() >= {"type": "error", "sequence_number": 0, "code": "slow"}.items()


def test_a_late_failure_in_a_flat_envelope_keeps_its_words():
    body = b'{"object":"error","message":"no","type":"invalid_model","param":null,"code":"1500"}'

    told = EVENTS.late(FinalAnswer(400, (), body))

    assert told is not None
    assert json.loads(told.partition(b"data: ")[2])["error"] == {
        "message": "no",
        "type": "invalid_model",
        "param": None,
        "code": "1500",
    }


@pytest.mark.parametrize("is_late", [True, False])
def test_a_message_that_cannot_be_streamed_is_an_error_of_anthropics_own_type(is_late):
    framing = framing_for(
        Family.ANTHROPIC, Shape.MESSAGES, streaming=Streaming.EVENTS, include_usage=False
    )
    answer = FinalAnswer(200, (), b"{}")

    body = framing.late(answer) if is_late else framing.early(answer).body

    assert body is not None
    envelope = json.loads(body.partition(b"data: ")[2] if is_late else body)
    assert (envelope["type"], envelope["error"]["type"]) == ("error", "api_error")
    assert envelope["error"]["code"] == "unreadable_result"


def test_a_late_failure_within_a_list_of_one_is_told_in_its_own_words():
    body = b'[{"error": {"code": 400, "message": "too long", "status": "INVALID_ARGUMENT"}}]'

    told = EVENTS.late(FinalAnswer(400, (), body))

    assert told is not None
    assert json.loads(told.partition(b"data: ")[2])["error"]["message"] == "too long"


@pytest.mark.parametrize("body", [b"<html>", b"\xff", b"[" * 100_000, b'"x"', b'{"error": []}'])
def test_a_late_failure_that_cannot_be_read_is_told_by_its_status(body):
    told = EVENTS.late(FinalAnswer(502, (), body))

    assert told is not None
    assert b"the provider answered 502" in told
