"""What is told of each call: one line and some numbers, and nothing that is the caller's own."""

import json

import pytest
from structlog.testing import capture_logs

from policies.model import Answer, Defer, Forward
from policies.policy import Policy
from proxy.web.entrance.calls import CallRecord
from tests.web.house import CHAT, CHAT_BODY, open_house


async def test_each_call_is_one_line_without_prompt_token_or_query(house):
    with capture_logs() as logs:
        await house.send("POST", CHAT + "?secret=canary", json=CHAT_BODY)
        await house.defer()
        await house.defer(body={"model": "canary"})

    lines = [line for line in logs if line["event"].startswith("call.")]
    assert [line["event"] for line in lines] == ["call.forwarded", "call.deferred", "call.refused"]
    forwarded, deferred, refused = lines
    assert (forwarded["path"], forwarded["decided_by"]) == (CHAT, "default")
    assert (deferred["how"], deferred["answer"], deferred["status"]) == ("created", "job", 202)
    assert deferred["bytes_up"] == len(json.dumps(CHAT_BODY))
    assert (refused["code"], refused["status"]) == ("missing_required_parameter", 400)
    assert all("duration_s" in line for line in lines)
    assert "canary" not in str(logs)


async def test_where_an_upstream_is_that_does_not_answer_is_told_to_the_log_alone(house):
    with capture_logs() as logs:
        reply = await house.send("POST", f"/away{CHAT}", json=CHAT_BODY)

    (line,) = [line for line in logs if line["event"] == "call.forwarded"]
    message = reply.json["error"]["message"]
    assert message == "cannot connect to upstream 'away': Connection refused"
    assert "127.0.0.1" in line["error"]


async def test_a_caller_that_left_is_told_as_such(house):
    with capture_logs() as logs:
        await house.abandoned()

    (line,) = [line for line in logs if line["event"] == "call.deferred"]
    assert (line["outcome"], line["status"]) == ("caller_left", None)


async def test_calls_are_counted_by_what_became_of_them(house):
    await house.send("POST", CHAT, json=CHAT_BODY)
    await house.defer()
    await house.send("GET", "/nowhere", key=None)

    value = house.metrics.value
    assert value("calls", decision="forward", outcome="completed") == 1
    assert value("calls", decision="defer", outcome="answered") == 1
    assert value("calls", decision="refuse", outcome="unknown_upstream") == 1
    assert value("job_accepted", lane="batch", mode="job") == 1


@pytest.mark.parametrize("mark", ["?", ";", "#", "%3F", "%3b", "%23", ";a=b/c?"])
def test_a_key_behind_the_path_is_not_logged_however_it_is_set_apart(mark):
    assert CallRecord("POST", f"/v1/models/g:x{mark}key=canary", 0.0).path == "/v1/models/g:x"


def test_what_a_rule_in_shadow_would_have_decided_is_noted():
    shadow = Defer(answer=Answer.WAIT, decided_by="rule:night", reason="it is night")
    record = CallRecord("POST", "/v1/x?key=canary", 0.0)

    record.decide(Forward(decided_by="default", reason="nobody asked", shadow=shadow))

    assert (record.path, record.decided_by) == ("/v1/x", "default")
    assert record.shadow == "defer by rule:night"


async def test_an_annotated_answer_says_what_decided_it_on_one_line():
    class Ruled(Policy):
        def decide(self, asked, facts):
            shadow = Defer(answer=Answer.WAIT, decided_by="rule:nächtlich\r\nX-Evil: 1", reason="")
            return Forward(decided_by="default", reason="nobody asked", shadow=shadow)

        def wants_body(self, asked, facts):
            return True

    async with open_house(annotate=True) as house:
        plain = await house.send("POST", CHAT, json=CHAT_BODY)
        house.policy = Ruled()
        ruled = await house.send("POST", CHAT, json=CHAT_BODY, headers={"X-Deferrable": "true"})
        tunnelled = await house.send("GET", "/v1/models", headers={"X-Deferrable": "false"})

    assert plain.headers["X-Deferrable-Decision"] == "forward; by=default"
    told = "forward; by=default; shadow=defer by rule:n?chtlich??X-Evil: 1"
    assert ruled.headers["X-Deferrable-Decision"] == told
    assert "X-Evil" not in ruled.headers
    assert tunnelled.headers["X-Deferrable-Decision"].startswith("forward; by=")


async def test_nothing_is_added_to_an_answer_unless_it_is_wanted(house):
    reply = await house.send("POST", CHAT, json=CHAT_BODY)

    assert [name for name in reply.headers if name.lower().startswith("x-deferrable")] == []
