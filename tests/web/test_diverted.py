"""Calls that nobody tagged, and what rules as operators write them make of them."""

import json
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from policies.load import load_policies
from policies.policy import Policy
from proxy.core.dialects import credential_hash
from tests.helpers.factories import T0
from tests.helpers.raw_upstream import wait_until
from tests.web.entrance.test_front import no_store
from tests.web.house import CHAT, CHAT_BODY, COMPLETION, KEY, open_house

EVERYTHING = "rules: [{name: all, then: defer}]"
NIGHTLY = """
rules:
  - name: nightly
    when: {headers: {user-agent: "*etl*"}, time: {between: "11:00-12:30"}}
    then: {defer: {deadline: 6h, tags: {by: rule}}}
"""
ETL = {"User-Agent": "acme-etl/1"}


def policy(text, generation=1):
    return Policy(load_policies(text, "p.yaml").rules, generation=generation)


def house_with(text, **options):
    return open_house(policy=policy(text), **options)


def ask(house, headers=None, body=None, **options):
    return house.send("POST", CHAT, json=body or CHAT_BODY, headers=headers, **options)


async def finished_reply(house, sending):
    """The answer of a call that is held, once its job is done."""
    await house.held()
    (job,) = await house.jobs()
    await house.finish(job)
    return await sending, job


def counted(house, rule, mode, decision):
    return house.metrics.value("rule_matched", rule=rule, mode=mode, decision=decision)


def call_lines(logs):
    return [line for line in logs if line["event"].startswith("call.")]


async def test_a_diverted_call_is_held_and_gets_the_providers_answer():
    async with house_with(NIGHTLY) as house:
        with capture_logs() as logs:
            reply, job = await finished_reply(house, house.tasks.create_task(ask(house, ETL)))
        other = await ask(house, {"User-Agent": "web/1"})

    assert (reply.status, reply.body) == (200, COMPLETION)
    assert (job.decided_by, job.tags) == ("rule:nightly", {"by": "rule"})
    assert job.deadline - job.accepted_at == timedelta(hours=6)
    assert other.json == {"up": True}
    (line,) = call_lines(logs)
    assert (line["decided_by"], line["policies"]) == ("rule:nightly", 1)
    assert counted(house, "nightly", "live", "defer") == 1


async def test_the_same_rule_in_shadow_forwards_and_is_counted():
    async with house_with(NIGHTLY + "    mode: shadow\n") as house:
        with capture_logs() as logs:
            reply = await ask(house, ETL)
            await ask(house, {"User-Agent": "web/1"})
        jobs = await house.jobs()

    assert reply.json == {"up": True}
    assert jobs == []
    shadowed, other = call_lines(logs)
    assert (shadowed["event"], shadowed["shadow"]) == ("call.forwarded", "defer by rule:nightly")
    assert (shadowed["decided_by"], shadowed["policies"]) == ("default", 1)
    assert "shadow" not in other
    assert counted(house, "nightly", "shadow", "defer") == 1
    assert counted(house, "nightly", "live", "defer") == 0


async def test_a_rule_that_the_caller_overrides_is_not_counted():
    async with house_with(EVERYTHING) as house:
        forwarded = await ask(house, {"X-Deferrable": "false"})
        deferred = await ask(house, {"X-Deferrable": "job"})

    assert (forwarded.status, deferred.status) == (200, 202)
    assert counted(house, "all", "live", "defer") == 0


@pytest.mark.parametrize("tag", [None, "false", "job", "true"])
async def test_an_operators_refusal_has_a_code_of_its_own_and_beats_every_tag(tag):
    rules = "rules: [{name: no, then: {reject: {message: 'Ask the platform team.', status: 451}}}]"
    async with house_with(rules) as house:
        reply = await ask(house, {"X-Deferrable": tag} if tag else None)
        claude = await house.send(
            "POST", "/anthropic/v1/messages", key=None, headers={"x-api-key": "k"}, json={}
        )

    assert reply.status == claude.status == 451
    assert reply.json["error"]["code"] == "refused_by_policy"
    assert reply.json["error"]["message"] == "Ask the platform team."
    assert claude.json["error"]["code"] == "refused_by_policy"
    assert house.seen == []
    assert counted(house, "no", "live", "reject") == 2
    assert house.metrics.value("calls", decision="refuse", outcome="refused_by_policy") == 2


async def test_what_a_tag_cannot_have_keeps_its_code():
    async with house_with(NIGHTLY) as house:
        reply = await ask(house, {"X-Deferrable": "job"}, {**CHAT_BODY, "stream": True})

    assert (reply.status, reply.json["error"]["code"]) == (400, "not_deferrable")


async def test_a_malformed_key_of_a_call_that_nobody_tagged_is_the_upstreams_business():
    key = {"Idempotency-Key": "x" * 300}
    async with house_with(EVERYTHING) as house:
        diverted = await ask(house, key)
        tagged = await ask(house, {**key, "X-Deferrable": "job"})

    assert diverted.json == {"up": True}
    (seen,) = house.seen
    assert seen.headers["idempotency-key"] == "x" * 300
    assert tagged.status == 400


async def test_a_diverted_call_that_cannot_be_accepted_is_forwarded_and_counted_by_cause():
    async with house_with(EVERYTHING) as house:
        no_store(house)
        with capture_logs() as logs:
            reply = await ask(house)

    assert reply.json == {"up": True}
    reason = {"rule": "all", "reason": "store_unavailable"}
    assert house.metrics.value("rule_forwarded", **reason) == 1
    (line,) = call_lines(logs)
    assert line["decided_by"] == "rule:all"
    assert line["reason"] == "it could not be deferred (store_unavailable)"
    # The store may have it all the same.
    assert len(house.withdrawn) == 1


async def test_a_tagged_call_that_is_refused_for_the_store_leaves_its_job_to_its_repeat():
    async with open_house() as house:
        no_store(house)
        reply = await house.defer()

    assert reply.status == 503
    assert house.withdrawn == []


# What a rule for everything must leave alone.


@pytest.mark.parametrize(
    ("method", "path", "content_type", "body"),
    [
        ("GET", "/v1/models", None, None),
        ("GET", "/v1/realtime?model=m", None, None),
        ("POST", "/v1/realtime/client_secrets", "application/json", b"{}"),
        ("POST", "/v1/files", "multipart/form-data; boundary=x", b"--x--"),
        ("POST", "/v1/uploads/upload_1/parts", "multipart/form-data; boundary=x", b"--x--"),
        ("POST", "/v1/audio/transcriptions", "multipart/form-data; boundary=x", b"--x--"),
        ("POST", "/v1/batches", "application/json", b"{}"),
        ("POST", CHAT, "text/plain", json.dumps(CHAT_BODY).encode()),
        ("POST", CHAT, "application/json", b"no json"),
        ("POST", CHAT, "application/json", json.dumps({**CHAT_BODY, "stream": True}).encode()),
        (
            "POST",
            "/v1/responses",
            "application/json",
            b'{"model":"m","input":"x","background":true}',
        ),
    ],
)
@pytest.mark.parametrize("rule", ["defer", "{defer: {answer: raise}}"])
async def test_what_cannot_run_later_is_never_diverted_by_accident(
    rule, method, path, content_type, body
):
    async with house_with(f"rules: [{{name: all, then: {rule}}}]") as house:
        headers = {"Content-Type": content_type} if content_type else None
        reply = await house.send(method, path, data=body, headers=headers)
        jobs = await house.jobs()

    assert reply.json == {"up": True}
    (seen,) = house.seen
    assert (seen.method, seen.target, seen.body) == (method, path, body or b"")
    assert jobs == []
    assert counted(house, "all", "live", "defer") == 0


async def test_a_websocket_is_no_call_that_can_wait():
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    async with house_with(EVERYTHING) as house:
        await house.send("GET", "/v1/realtime?model=m", headers=upgrade)
        jobs = await house.jobs()

    assert [seen.target for seen in house.seen] == ["/v1/realtime?model=m"]
    assert jobs == []


async def test_an_upload_is_not_waited_for_by_rules_on_the_body():
    rules = "rules: [{name: big, when: {body_bytes: {min: 1}}, then: interactive}]"
    async with house_with(rules) as house:
        reply = await house.send("POST", "/v1/files", data=b"x" * 100_000)

    assert reply.json == {"up": True}
    assert len(house.seen[0].body) == 100_000
    assert counted(house, "big", "live", "forward") == 0


async def test_a_stream_is_diverted_where_a_rule_says_so():
    rules = "rules: [{name: streams, when: {stream: true}, then: defer}]"
    async with house_with(rules) as house:
        sending = house.tasks.create_task(ask(house, body={**CHAT_BODY, "stream": True}))
        reply, job = await finished_reply(house, sending)

    assert reply.headers["Content-Type"].startswith("text/event-stream")
    assert reply.body.rstrip().endswith(b"data: [DONE]")
    assert job.decided_by == "rule:streams"


# Repeats.


async def broken_off(house, headers):
    """Send a call whose caller leaves while it is held; return its job."""
    sending = house.tasks.create_task(ask(house, headers))
    await house.held()
    sending.cancel()
    await wait_until(lambda: house.holding.count == 0, "the handler to end")
    await wait_until(lambda: house.repeats.expects_any, "the note")
    (job,) = await house.jobs()
    return job


REFUSE = "rules: [{name: no, then: {reject: {message: 'no'}}}]"


@pytest.mark.parametrize(
    "between", ["nothing", "the hour", "no rules", "another rule", "a refusal", "a shadow"]
)
async def test_a_repeat_gets_the_job_of_its_call_whatever_rules_say_by_then(between):
    changed = {
        "no rules": Policy(generation=2),
        "another rule": policy("rules: [{name: humans, then: interactive}]", 2),
        "a refusal": policy(REFUSE, 2),
        "a shadow": policy(NIGHTLY + "    mode: shadow\n", 2),
    }
    async with house_with(NIGHTLY) as house:
        job = await broken_off(house, ETL)
        if between == "the hour":
            house.clock.advance(minutes=31)
        house.policy = changed.get(between, house.policy)
        with capture_logs() as logs:
            retry = {**ETL, "x-stainless-retry-count": "1"}
            sending = house.tasks.create_task(ask(house, retry))
            reply, _ = await finished_reply(house, sending)

        assert (reply.status, reply.body) == (200, COMPLETION)
        assert reply.headers["X-Deferrable-Job"] == job.id
        assert house.seen == []
        assert house.metrics.value("job_accepted", lane="batch", mode="wait") == 1
        (line,) = call_lines(logs)
        assert (line["how"], line["decided_by"]) == ("claimed", "rule:nightly")
        # One call, so one match: the repeat was not decided.
        assert counted(house, "nightly", "live", "defer") == 1
        assert counted(house, "no", "live", "reject") == 0


async def test_a_repeat_of_nothing_is_decided_like_any_call():
    async with house_with(REFUSE) as house:
        reply = await ask(house, {"x-stainless-retry-count": "1"})

    assert reply.json["error"]["code"] == "refused_by_policy"


async def test_a_rule_can_name_a_credential_by_the_hash_that_the_command_prints():
    when = f"{{credential: '{credential_hash(KEY)}'}}"
    rules = f"rules: [{{name: r, when: {when}, then: interactive}}]"
    async with house_with(rules) as house:
        await ask(house)
        await ask(house, key="sk-other")

    assert counted(house, "r", "live", "forward") == 1


def test_the_house_opens_within_the_span_of_these_rules():
    assert (T0.hour, T0.minute) == (12, 0)
