"""What becomes of a call: forwarded untouched, deferred durably, or refused as its SDK expects."""

import asyncio
import json
from typing import Any

import openai
import pytest

from policies.model import Forward
from policies.policy import Policy
from proxy.core.errors import StoreUnavailableError
from proxy.core.job import AnswerMode
from proxy.core.lanes import Lane
from proxy.services.callers.quota import Limits
from proxy.services.deferral.accept import DeferralSettings
from tests.web.house import (
    CHAT,
    CHAT_BODY,
    COMPLETION,
    DIVERT,
    KEY,
    MAX_BODY,
    Ruling,
    open_house,
)


def no_store(house):
    """Let every use of a store by a call fail the test's way: as if it were away."""

    async def away(*args, **kwargs):
        raise StoreUnavailableError("the store is away")

    for store in (house.stores.jobs, house.stores.deliveries, house.stores.credentials):
        for name in ("accept", "get", "claim", "remember", "list_jobs", "replace_many"):
            if hasattr(store, name):
                setattr(store, name, away)


async def test_a_call_that_asks_for_nothing_is_forwarded_as_it_is(house):
    raw = b'{ "model": "m" }'

    reply = await house.send("POST", CHAT + "?x=1", data=raw, headers={"X-Custom": "1"})

    assert (reply.status, reply.json) == (200, {"up": True})
    (seen,) = house.seen
    assert (seen.method, seen.target, seen.body) == ("POST", CHAT + "?x=1", raw)
    assert seen.headers["x-custom"] == "1"
    assert seen.headers["authorization"] == f"Bearer {KEY}"


async def test_interactive_calls_do_not_notice_a_store_that_is_away(house):
    no_store(house)
    house.policy = Policy(generation=1)

    replies = [
        await house.send("POST", CHAT, json=CHAT_BODY),
        await house.send("GET", "/v1/models"),
        await house.send("POST", CHAT, json=CHAT_BODY, headers={"x-stainless-retry-count": "1"}),
    ]

    assert [reply.status for reply in replies] == [200, 200, 200]
    assert house.seen[2].body == json.dumps(CHAT_BODY).encode()
    assert house.metrics.value("claims_failed", reason="store_unavailable") == 1


async def test_a_tagged_call_is_accepted_and_nothing_reaches_the_upstream(house):
    reply = await house.defer(headers={"X-Deferrable-Tags": "team=etl", "Prefer": "wait=5"})

    assert reply.status == 202
    assert reply.json["object"] == "deferrable.job"
    assert reply.json["tags"] == {"team": "etl"}
    assert reply.headers["Location"] == f"/v1/jobs/{reply.json['id']}"
    assert house.seen == []
    (job,) = await house.jobs()
    assert job.decided_by == "header:x-deferrable"
    assert (await house.stores.jobs.body(job.id)) == json.dumps(CHAT_BODY).encode()


async def test_a_deferred_call_with_the_store_away_is_never_a_promise(house):
    no_store(house)

    reply = await house.defer()

    assert reply.status == 503
    assert reply.headers["Retry-After"] == "5"
    assert reply.json["error"]["code"] == "store_unavailable"
    assert house.seen == []


async def test_our_headers_never_reach_the_upstream_and_others_always_do(house):
    headers = {
        "X-Deferrable": "false",
        "X-Deferrable-Tags": "a=b",
        "X-Deferrable-Run": "r",
        "Prefer": "respond-async",
        "Idempotency-Key": "k",
    }

    await house.send("POST", CHAT, json=CHAT_BODY, headers=headers)

    (seen,) = house.seen
    assert not [name for name in seen.headers if name.startswith("x-deferrable")]
    assert seen.headers["prefer"] == "respond-async"
    assert seen.headers["idempotency-key"] == "k"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/models", None),
        ("DELETE", "/v1/files/file-1", None),
        ("POST", "/v1/files", b"--x"),
        ("POST", "/v1/responses", b'{"model":"m","input":"x","background":true}'),
        ("POST", CHAT, b"no json"),
        ("POST", CHAT, json.dumps({**CHAT_BODY, "x": "y" * MAX_BODY}).encode()),
    ],
)
async def test_a_tag_on_everything_forwards_what_cannot_run_later(house, method, path, body):
    reply = await house.send(
        method,
        path,
        data=body,
        headers={"X-Deferrable": "true", "Content-Type": "application/json"},
    )

    assert reply.status == 200
    assert house.seen[0].body == (body or b"")
    assert await house.jobs() == []


async def test_an_explicit_wish_that_cannot_be_granted_is_refused_with_the_reason(house):
    reply = await house.send("POST", "/v1/audio/speech", json={}, headers={"X-Deferrable": "job"})

    assert reply.status == 400
    assert "of paths at 'openai' only /v1/chat/completions, " in reply.json["error"]["message"]
    assert house.seen == []


async def test_what_the_provider_would_refuse_is_refused_before_it_is_queued(house):
    reply = await house.defer(body={"model": "gpt-4o-mini"})

    assert reply.status == 400
    assert reply.json["error"] == {
        "message": "Missing required parameter: 'messages'.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "missing_required_parameter",
    }
    assert await house.jobs() == []


async def test_a_bad_header_is_named(house):
    reply = await house.send("POST", CHAT, json=CHAT_BODY, headers={"X-Deferrable": "later"})

    assert reply.status == 400
    assert reply.json["error"]["param"] == "X-Deferrable"
    assert "background" in reply.json["error"]["message"]
    assert house.seen == []


async def test_a_base_url_with_a_path_is_deferred_to_and_keeps_its_target(house):
    job = await house.job(path="/based/chat/completions")

    assert job.key.upstream == "based"
    assert job.key.endpoint == CHAT
    assert job.target == "/serving/v1/chat/completions"
    assert job.lane is Lane.FLEX


async def test_refusals_speak_the_callers_dialect(house):
    unknown = await house.send("GET", "/nowhere", key=None)
    foreign = await house.send(
        "POST", "/anthropic/v1/messages", key=None, headers={"x-api-key": "sk-proj-canary-1"}
    )
    absolute = await house.send("GET", "/anthropic/v1/x", headers={"X-Deferrable": "?"})

    assert (unknown.status, unknown.json["error"]["code"]) == (404, "unknown_upstream")
    assert foreign.status == 421
    assert foreign.json["type"] == "error"
    assert "canary" not in foreign.body.decode()
    assert absolute.json["type"] == "error"
    assert house.seen == []


async def test_a_path_with_a_job_id_is_never_forwarded(house):
    job = await house.job()

    for path in (
        f"/v1/files/{job.id}",
        f"/openai/v1/fine_tuning/jobs/{job.id}/events",
        f"/v1/messages/batches/{job.id}",
        f"/v1/jobs/{job.id}/x",
        "/v1/jobs/nothing",
    ):
        assert (await house.send("GET", path)).status == 404
    assert house.seen == []


async def test_while_draining_calls_are_forwarded_and_none_is_deferred(house):
    house.front.drain()

    deferred = await house.defer()
    forwarded = await house.send("POST", CHAT, json=CHAT_BODY)

    assert (deferred.status, deferred.headers["Retry-After"]) == (503, "1")
    assert forwarded.status == 200
    assert await house.jobs() == []


async def test_prefer_defers_and_is_confirmed(house):
    reply = await house.send(
        "POST", CHAT, json=CHAT_BODY, headers={"Prefer": "respond-async, wait=0"}
    )

    assert reply.status == 202
    assert reply.headers["Preference-Applied"].startswith("respond-async")
    (job,) = await house.jobs()
    assert job.decided_by == "header:prefer"


async def test_the_stock_sdk_gets_its_answer_by_waiting(house):
    async with house.sdk(default_headers={"X-Deferrable": "wait"}) as client:
        asked = house.tasks.create_task(client.chat.completions.create(**CHAT_BODY))
        await house.held()
        (job,) = await house.jobs()
        await house.finish(job)
        completion = await asked

    assert completion.choices[0].message.content == "hi"
    assert job.answer is AnswerMode.WAIT


async def test_the_stock_sdk_gets_a_loud_error_with_the_job_by_raise(house):
    async with house.sdk(default_headers={"X-Deferrable": "raise"}, max_retries=2) as client:
        with pytest.raises(openai.BadRequestError) as raised:
            await client.chat.completions.create(**CHAT_BODY)

    (job,) = await house.jobs()
    assert raised.value.code == "deferred_accepted"
    assert job.id in raised.value.message


@pytest.mark.parametrize(("path", "status"), [("chat/completions", 400), ("responses", 200)])
async def test_a_wrapper_that_would_lose_a_job_gets_a_loud_error_for_it(house, path, status):
    body = CHAT_BODY if status == 400 else {"model": "m", "input": "hello"}

    reply = await house.defer(
        "true", body, path=f"/v1/{path}", headers={"User-Agent": "pydantic-ai/2.68.0"}
    )

    (job,) = await house.jobs()
    assert (reply.status, reply.headers["X-Deferrable-Job"]) == (status, job.id)
    if status == 400:
        assert "X-Deferrable: wait" in reply.json["error"]["message"]


async def test_no_more_connections_are_held_than_configured():
    async with open_house(max_held=0) as house:
        reply = await house.defer("wait")

        assert (reply.status, reply.json["error"]["code"]) == (429, "too_many_held")
        assert await house.jobs() == []
        assert (await house.defer("job")).status == 202


async def test_an_idempotency_key_that_cannot_be_one_is_named(house):
    reply = await house.defer(headers={"Idempotency-Key": "x" * 256})

    assert reply.status == 400
    assert reply.json["error"]["code"] == "bad_header"
    assert reply.json["error"]["param"] == "Idempotency-Key"


async def test_the_same_idempotency_key_is_the_same_job(house):
    first = await house.defer(headers={"Idempotency-Key": "k"})
    again = await house.defer(headers={"Idempotency-Key": "k"})
    other = await house.defer(headers={"Idempotency-Key": "k"}, body={**CHAT_BODY, "n": 2})

    assert again.json["id"] == first.json["id"]
    assert (other.status, other.json["error"]["code"]) == (422, "idempotency_key_reused")


async def test_the_callers_wishes_reach_the_job(house):
    job = await house.job(
        headers={"X-Deferrable-Deadline": "2h", "X-Deferrable-Run": "r", "X-Deferrable-Tags": "a=b"}
    )

    assert (job.deadline - job.accepted_at).total_seconds() == 7200
    assert job.tags == {"a": "b"}


async def test_usual_headers_hold_for_calls_that_carry_none_and_go_nowhere():
    usual = ((b"X-Deferrable", b"wait"), (b"X-Deferrable-Tags", b"run=nightly"))
    async with open_house(usual=usual) as house:
        own = await house.job(headers={"X-Deferrable-Tags": "run=own"})
        preferring = await house.send(
            "POST", CHAT, json=CHAT_BODY, headers={"Prefer": "respond-async"}
        )
        forwarded = await house.send(
            "POST", CHAT, json=CHAT_BODY, headers={"X-Deferrable": "false"}
        )
        asked = house.tasks.create_task(house.send("POST", CHAT, json=CHAT_BODY))
        await house.held()
        (held,) = [job for job in await house.jobs() if job.answer is AnswerMode.WAIT]
        await house.finish(held)
        await asked

    assert (own.answer, own.tags) == (AnswerMode.JOB, {"run": "own"})
    assert held.tags == {"run": "nightly"}
    assert (preferring.status, forwarded.status) == (202, 200)
    assert not [name for seen in house.seen for name in seen.headers if "deferrable" in name]


async def answered(house, *prompts, mode="wait", run="evals"):
    """Make these calls of a run at the same time, end their jobs, and return the lanes."""
    calls = [
        house.tasks.create_task(
            house.defer(mode, {**CHAT_BODY, "user": prompt}, headers={"X-Deferrable-Run": run})
        )
        for prompt in prompts
    ]
    if mode == "wait":
        await house.held(len(calls))
    else:
        await asyncio.gather(*calls)
    jobs = [job for job in await house.jobs() if not job.state.is_terminal]
    for job in jobs:
        await house.finish(job)
    await asyncio.gather(*calls)
    return [job.lane for job in jobs]


async def test_a_run_that_waits_for_each_answer_is_called_directly_after_three(house):
    lanes = [await answered(house, f"{number}") for number in range(5)]

    assert lanes == [[Lane.BATCH]] * 3 + [[Lane.FLEX]] * 2
    assert await answered(house, "0", run="another") == [Lane.BATCH]


async def test_a_run_that_makes_calls_at_once_again_is_batched_again(house):
    for number in range(3):
        await answered(house, f"{number}")

    assert sorted(await answered(house, "a", "b", "c")) == [Lane.BATCH] * 2 + [Lane.FLEX]
    assert await answered(house, "d") == [Lane.BATCH]


async def test_calls_that_nobody_waits_for_say_nothing_about_the_pace(house):
    for number in range(4):
        assert await answered(house, f"{number}", mode="job") == [Lane.BATCH]


# Rules.


async def test_a_rule_diverts_a_call_that_nobody_tagged():
    async with open_house(policy=Policy(Ruling(DIVERT))) as house:
        sending = house.tasks.create_task(house.send("POST", CHAT, json=CHAT_BODY))
        await house.held()
        (job,) = await house.jobs()
        await house.finish(job)
        reply = await sending

    assert (reply.status, reply.body) == (200, COMPLETION)
    assert job.decided_by == "rule:nightly"
    assert house.seen == []


@pytest.mark.parametrize("why", ["store", "draining", "full", "caps", "fields", "anonymous"])
async def test_a_diverted_call_that_cannot_be_accepted_is_forwarded(why):
    options: dict[str, Any] = {"policy": Policy(Ruling(DIVERT))}
    if why == "full":
        options["max_held"] = 0
    if why == "caps":
        options["limits"] = Limits(unverified_jobs=0)
    async with open_house(**options) as house:
        if why == "store":
            no_store(house)
        if why == "draining":
            house.front.drain()
        body = {"model": "m"} if why == "fields" else CHAT_BODY
        path, key = ("/based/chat/completions", None) if why == "anonymous" else (CHAT, KEY)
        reply = await house.send("POST", path, json=body, key=key)

        assert reply.json == {"up": True}
        assert house.seen[0].body == json.dumps(body).encode()


async def test_rules_that_need_no_body_leave_it_unread():
    forward = Forward(decided_by="rule:humans", reason="they wait")
    async with open_house(policy=Policy(Ruling(forward, wants_body=False))) as house:
        reply = await house.send("POST", "/v1/files", data=b"x" * 100_000)

    assert reply.status == 200
    assert len(house.seen[0].body) == 100_000


async def test_without_a_credential_a_self_hosted_server_is_deferred_to_if_configured():
    settings = DeferralSettings(anonymous=frozenset({"based"}))
    async with open_house(settings=settings) as house:
        allowed = await house.defer(path="/based/chat/completions", key=None)
        refused = await house.defer(path="/openai/v1/chat/completions", key=None)

    assert allowed.status == 202
    assert (refused.status, refused.json["error"]["code"]) == (400, "credential_required")


async def test_a_served_call_vouches_for_its_credential(house):
    await house.defer()
    house.upstream_status = 401
    await house.send("POST", CHAT, json=CHAT_BODY)
    assert house.accounts.wants_news

    house.upstream_status = 200
    for path in ("/v1/models", CHAT):
        await house.send("GET", path)
    assert house.accounts.wants_news
    await house.send("POST", CHAT, json=CHAT_BODY)

    assert not house.accounts.wants_news


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-Deferrable": "true"}, 200),
        ({"X-Deferrable": "wait"}, 200),
        ({"Prefer": "respond-async"}, 200),
        ({"X-Deferrable": "job"}, 503),
        ({"X-Deferrable": "raise"}, 503),
    ],
)
async def test_without_the_store_deferred_calls_go_interactive_where_that_is_configured(
    headers, status
):
    async with open_house(forwards_without_store=True) as house:
        no_store(house)
        reply = await house.send("POST", CHAT, json=CHAT_BODY, headers=headers)

    assert reply.status == status
    assert len(house.seen) == (status == 200)
