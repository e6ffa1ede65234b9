"""Deferred calls whose head came before take the shortcut, and are served as if it had not."""

import asyncio
import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from policies.model import Answer
from policies.policy import Policy
from proxy.core.errors import StoreUnavailableError
from proxy.core.ids import JobId
from proxy.ports.jobs import Acceptance, NewJob
from tests.helpers.raw_upstream import wait_until
from tests.web.house import CHAT_BODY, House, open_house
from tests.web.test_diverted import call_lines


def body(**changes):
    return {**json.loads(json.dumps(CHAT_BODY)), **changes}


async def test_a_call_whose_head_came_before_takes_the_shortcut():
    async with open_house() as house:
        jobs = [await house.job() for _ in range(3)]

        assert house.handled == 1
    assert len({job.id for job in jobs}) == 3
    assert len({job.fingerprint for job in jobs}) == 1
    assert {job.decided_by for job in jobs} == {"header:x-deferrable"}


async def test_equal_heads_with_other_bodies_are_other_calls():
    async with open_house() as house:
        one, two = await house.job(), await house.job(body=body(temperature=0.5))

        assert one.fingerprint != two.fingerprint
        assert one.body_bytes != two.body_bytes


@pytest.mark.parametrize(
    "other",
    [
        {"key": "sk-another"},
        {"headers": {"OpenAI-Project": "project-2"}},
        {"headers": {"X-Deferrable-Tags": "team=etl"}},
        {"headers": {"X-Deferrable-Deadline": "6h"}},
    ],
)
async def test_whatever_differs_in_the_head_is_told_apart(other):
    async with open_house() as house:
        one, two = await house.job(), await house.job(**other)

        parts = ("owner", "fingerprint", "tags", "deadline")
        assert [getattr(one, part) for part in parts] != [getattr(two, part) for part in parts]
        assert house.handled == 2


async def test_fields_that_nothing_depends_on_make_no_new_head():
    async with open_house() as house:
        for number in range(3):
            trace = f"00-{number:032x}-{number:016x}-01"
            await house.job(headers={"traceparent": trace, "X-Request-ID": str(number)})

        assert house.handled == 1


async def test_what_the_body_alone_decides_is_decided_for_each_body():
    async with open_house() as house:
        await house.job()

        streaming = await house.defer(body=body(stream=True))
        background = await house.defer(body=body(background=True))
        no_object = await house.send(
            "POST",
            "/v1/chat/completions",
            headers={"X-Deferrable": "job", "Content-Type": "application/json"},
            data=b"[]",
        )

    assert [streaming.status, background.status, no_object.status] == [400] * 3
    assert b"wants a stream" in streaming.body
    assert b"runs in the background already" in background.body
    assert b"must be an object" in no_object.body


async def test_another_policy_decides_anew():
    async with open_house() as house:
        first = await house.defer("true")
        house.policy = Policy(default_answer=Answer.RAISE)
        second = await house.defer("true")

    assert (first.status, second.status) == (202, 400)


async def test_a_deadline_at_a_point_of_time_is_checked_each_time():
    async with open_house() as house:
        at = {"X-Deferrable-Deadline": "2026-11-23T13:00:00Z"}
        await house.job(headers=at)
        house.clock.advance(hours=2)

        late = await house.defer(headers=at)

    assert late.status == 400
    assert b"X-Deferrable-Deadline" in late.body


async def test_an_idempotency_key_counts_for_its_call_alone():
    async with open_house() as house:
        same = [await house.job(headers={"Idempotency-Key": "one"}) for _ in range(2)]
        other = await house.job(headers={"Idempotency-Key": "two"})

    assert same[0].id == same[1].id != other.id


async def test_a_body_that_is_too_long_is_refused_whatever_came_before():
    async with open_house() as house:
        await house.job()

        refused = await house.defer(body=body(user="x" * 200_000))

    assert refused.status == 400


async def test_a_repeat_claims_its_job_though_its_head_is_known():
    async with open_house() as house:
        first = await house.job(headers={"x-stainless-retry-count": "1"})
        await wait_until(lambda: not house.notes._unwritten)

        again = await house.defer(headers={"x-stainless-retry-count": "2"})

        assert JobId(again.headers["X-Deferrable-Job"]) == first.id


def failing(house: House, error: Exception) -> None:
    async def accept(_: NewJob) -> Acceptance:
        raise error

    jobs: Any = house.stores.jobs
    jobs.accept = accept


async def test_a_store_that_is_away_refuses_the_call_and_keeps_its_connection():
    async with open_house() as house:
        await house.job()
        jobs: Any = house.stores.jobs
        accept = jobs.accept
        failing(house, StoreUnavailableError("the disk is full"))
        refused = await house.defer()
        jobs.accept = accept
        after = await house.defer()

        # The second asks first whether the job of the first is there after all.
        assert house.handled == 2
    assert (refused.status, refused.headers["Retry-After"], after.status) == (503, "5", 202)
    assert b"the disk is full" in refused.body


async def test_what_an_answer_says_of_itself_is_the_same_on_both_paths():
    async with open_house() as house:
        answers = [await house.defer() for _ in range(2)]
        assert house.handled == 1
        house.front.drain()
        refused = [await house.defer(headers={"X-Caller": "2"}) for _ in range(2)]
        assert house.handled == 2
        listed = await house.send("GET", "/v1/jobs")

    for usual, short in (answers, refused):
        assert list(usual.headers) == list(short.headers)
        assert "Date" in usual.headers
    assert "Server" not in {*answers[0].headers, *refused[0].headers, *listed.headers}


async def test_an_instance_that_stops_makes_no_more_promises():
    async with open_house() as house:
        await house.job()
        house.front.drain()
        refused = await house.defer()

        assert (refused.status, refused.headers["Retry-After"], house.handled) == (503, "1", 1)


async def test_a_bug_is_told_to_the_caller_and_to_the_log(caplog):
    async with open_house() as house:
        await house.job()
        failing(house, RuntimeError("a bug"))
        answer = await house.defer()

        assert (answer.status, house.handled) == (500, 1)
    assert answer.headers["Connection"] == "close"
    assert b"a bug, of which its log tells" in answer.body
    assert "RuntimeError: a bug" in caplog.text


async def test_a_caller_who_leaves_before_its_answer_ends_its_call_alone():
    begun, left = asyncio.Event(), asyncio.Event()

    async def never(_):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    async with open_house() as house:
        await house.job()
        jobs: Any = house.stores.jobs
        accept, jobs.accept = jobs.accept, never
        sending = house.tasks.create_task(house.defer())
        await begun.wait()
        sending.cancel()
        await left.wait()
        jobs.accept = accept

        assert (await house.defer()).status == 202
        # It asks first whether the job of the first is there after all.
        assert house.handled == 2


@pytest.mark.parametrize("known", [False, True])
async def test_the_job_of_a_caller_who_leaves_meanwhile_is_found_by_its_repeat(known):
    begun = asyncio.Event()
    async with open_house() as house:
        if known:
            await house.job(body=body(user="another"))
        before = house.handled
        jobs: Any = house.stores.jobs
        accept = jobs.accept

        async def made_after_all(new: NewJob) -> Acceptance:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                done: Acceptance = await accept(new)
            return done

        jobs.accept = made_after_all
        with capture_logs() as logs:
            sending = house.tasks.create_task(house.defer())
            await begun.wait()
            sending.cancel()
            await wait_until(lambda: house.notes._unwritten == {} and call_lines(logs))
        jobs.accept = accept
        assert house.handled == before + (not known)

        found = await house.job()

        assert len([job for job in await house.jobs() if job.fingerprint == found.fingerprint]) == 1
    (line,) = call_lines(logs)
    assert (line["event"], line["outcome"], line["how"], line["job_id"]) == (
        *("call.deferred", "caller_left", "unclear"),
        found.id,
    )


@pytest.mark.parametrize("known", [False, True])
async def test_a_job_that_was_made_unheard_is_found_by_its_repeat(known):
    async with open_house() as house:
        if known:
            await house.job(body=body(user="another"))
        jobs: Any = house.stores.jobs
        accept = jobs.accept

        async def unheard(new: NewJob) -> Acceptance:
            await accept(new)
            raise StoreUnavailableError("it does not answer")

        jobs.accept = unheard
        refused = await house.defer()
        await wait_until(lambda: house.notes._unwritten == {})
        jobs.accept = accept

        found = await house.job()

        assert refused.status == 503
        assert len([job for job in await house.jobs() if job.fingerprint == found.fingerprint]) == 1


async def test_answers_that_differ_by_their_ids_alone_are_those_of_the_usual_path():
    async with open_house() as house:
        replies = [await house.defer() for _ in range(3)]
        assert house.handled == 1

    jobs = [reply.headers["X-Deferrable-Job"] for reply in replies]
    assert len(set(jobs)) == 3
    told = [
        (reply.body.replace(job.encode(), b"ID"), reply.headers["Location"].replace(job, "ID"))
        for reply, job in zip(replies, jobs, strict=True)
    ]
    assert told[0] == told[1] == told[2]
    assert [reply.json["id"] for reply in replies] == jobs


async def test_answers_of_other_moments_and_other_jobs_are_not_mixed_up():
    async with open_house() as house:
        first, second = await house.defer(), await house.defer()
        house.clock.advance(seconds=1)
        later = await house.defer()
        other = await house.defer(body=body(model="gpt-4o"))
        tagged = [await house.defer(headers={"X-Deferrable-Tags": "n=1"}) for _ in range(2)]
        plain = await house.defer()

    created = [reply.json["created_at"] for reply in (first, second, later, other)]
    assert created == [created[0], created[0], created[0] + 1, created[0] + 1]
    assert [reply.json["model"] for reply in (later, other)] == ["gpt-4o-mini", "gpt-4o"]
    assert [reply.json["tags"] for reply in (*tagged, plain)] == [{"n": "1"}, {"n": "1"}, {}]


async def test_a_stock_sdk_takes_it():
    async with open_house() as house, house.sdk() as client:
        create = client.chat.completions.with_raw_response.create
        for number in range(3):
            raw = await create(
                model="gpt-4o-mini",
                messages=[{"role": "user", "content": f"call {number}"}],
                extra_headers={"X-Deferrable": "job"},
            )
            assert raw.status_code == 202

        assert house.handled == 1
    assert len(await house.jobs()) == 3
