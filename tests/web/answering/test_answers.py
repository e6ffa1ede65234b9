"""What each mode tells its caller, seen by raw sockets and by the stock OpenAI SDK."""

import asyncio
import json
from typing import Any

import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel

from proxy.core.ids import find_job_id
from proxy.core.job import AnswerMode, CancelRequested, DeadlinePassed
from proxy.core.repeats import Answered
from tests.helpers.raw_upstream import wait_until
from tests.web.desk import (
    CHAT,
    EMBEDDINGS,
    FAMILIES,
    RESPONSES,
    chat_completion,
    open_desk,
    raw_post,
    response_body,
    spaced,
)

MESSAGES: Any = [{"role": "user", "content": "hello"}]


async def create(client: Any, **changes: Any) -> Any:
    return await client.chat.completions.create(**{"model": "m", "messages": MESSAGES} | changes)


async def test_job_mode_answers_202_with_the_job_and_where_it_is():
    async with open_desk(AnswerMode.JOB) as desk, desk.sdk() as client:
        raw = await client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)

    job = json.loads(raw.content)
    assert raw.status_code == 202
    assert job["id"] == desk.jobs[0]
    assert (job["object"], job["status"]) == ("deferrable.job", "queued")
    assert raw.headers["x-deferrable-job"] == desk.jobs[0]
    assert raw.headers["location"] == f"/v1/jobs/{desk.jobs[0]}"
    assert 1 <= int(raw.headers["retry-after"]) <= 120
    assert "preference-applied" not in raw.headers
    assert desk.delivery(desk.jobs[0]).state is Answered.FLUSHED


async def test_gemini_is_answered_200_because_its_sdk_takes_nothing_else():
    async with (
        open_desk(AnswerMode.JOB, dialect=FAMILIES["gemini"]) as desk,
        raw_post(desk) as wire,
    ):
        assert await wire.to_the_end()

    assert wire.head.startswith(b"HTTP/1.1 200")
    assert json.loads(wire.body)["object"] == "deferrable.job"


@pytest.mark.parametrize("mode", [AnswerMode.JOB, AnswerMode.BACKGROUND])
async def test_responses_are_answered_in_the_native_pending_shape(mode):
    async with open_desk(mode, endpoint=RESPONSES) as desk, desk.sdk() as client:
        response = await client.responses.create(model="gpt-4o-mini", input="hello")

    assert isinstance(response, Response)
    assert (response.id, response.status) == (desk.jobs[0], "queued")
    assert (response.background, response.output, response.usage) == (True, [], None)


@pytest.mark.parametrize(
    ("endpoint", "mode"), [(CHAT, AnswerMode.JOB), (RESPONSES, AnswerMode.BACKGROUND)]
)
async def test_a_model_that_is_no_text_is_told_as_it_came(endpoint, mode):
    body = {"model": "m\ud800", "input": "", "messages": []}
    async with open_desk(mode, endpoint=endpoint) as desk, raw_post(desk, body=body) as wire:
        assert await wire.to_the_end()

    assert json.loads(wire.body)["model"] == "m\ud800"


async def test_a_typed_embeddings_call_gets_an_error_that_carries_the_job():
    async with (
        open_desk(AnswerMode.JOB, endpoint=EMBEDDINGS, typed_sdk=True) as desk,
        desk.sdk() as client,
    ):
        with pytest.raises(openai.BadRequestError) as raised:
            await client.embeddings.create(model="m", input="x")

    assert raised.value.code == "deferred_accepted"
    assert find_job_id(str(raised.value)) == desk.jobs[0]


async def test_a_completion_that_its_sdk_parses_gets_an_error_that_carries_the_job():
    class Ticket(BaseModel):
        label: str

    async with open_desk(AnswerMode.JOB, parsed_at_once=True) as desk, desk.sdk() as client:
        with pytest.raises(openai.BadRequestError) as raised:
            await client.chat.completions.parse(
                model="m", messages=MESSAGES, response_format=Ticket
            )

    assert raised.value.code == "deferred_accepted"
    assert find_job_id(str(raised.value)) == desk.jobs[0]


async def test_a_raw_embeddings_call_gets_the_job():
    async with (
        open_desk(AnswerMode.JOB, endpoint=EMBEDDINGS, typed_sdk=False) as desk,
        desk.sdk() as client,
    ):
        raw = await client.embeddings.with_raw_response.create(model="m", input="x")

    assert raw.status_code == 202
    assert json.loads(raw.content)["id"] == desk.jobs[0]


async def test_a_raw_response_is_queued_only_for_who_asks_for_that():
    async with (
        open_desk(AnswerMode.JOB, endpoint=RESPONSES, raw_sdk=True) as desk,
        desk.sdk() as client,
    ):
        with pytest.raises(openai.BadRequestError) as raised:
            await client.responses.with_raw_response.create(model="m", input="x")
    async with (
        open_desk(AnswerMode.BACKGROUND, endpoint=RESPONSES, raw_sdk=True) as other,
        other.sdk() as client,
    ):
        raw = await client.responses.with_raw_response.create(model="m", input="x")

    assert find_job_id(str(raised.value)) == desk.jobs[0]
    assert json.loads(raw.content)["status"] == "queued"


async def test_raise_is_loud_and_sent_once():
    async with open_desk(AnswerMode.RAISE) as desk, desk.sdk(max_retries=5) as client:
        with pytest.raises(openai.BadRequestError) as raised:
            await create(client)

    assert len(desk.posts) == 1
    assert raised.value.code == "deferred_accepted"
    assert find_job_id(str(raised.value)) == desk.jobs[0]
    assert raised.value.response.headers["x-deferrable-job"] == desk.jobs[0]
    assert raised.value.response.headers["x-should-retry"] == "false"
    assert desk.delivery(desk.jobs[0]).state is Answered.FLUSHED


@pytest.mark.parametrize(
    ("family", "told", "error"),
    [
        ("anthropic", {"type": "error"}, {"type": "invalid_request_error"}),
        ("gemini", {}, {"status": "INVALID_ARGUMENT", "code": 400}),
    ],
)
async def test_raise_speaks_the_callers_dialect(family, told, error):
    async with (
        open_desk(AnswerMode.RAISE, dialect=FAMILIES[family]) as desk,
        raw_post(desk) as wire,
    ):
        assert await wire.to_the_end()

    body = json.loads(wire.body)
    assert wire.head.startswith(b"HTTP/1.1 400")
    assert b"deferred_accepted" in wire.body
    assert desk.jobs[0] in body["error"].pop("message")
    assert body.items() >= told.items()
    assert body["error"].items() >= error.items()


@pytest.mark.parametrize("mode", [AnswerMode.JOB, AnswerMode.RAISE])
async def test_no_sdk_call_takes_a_pending_answer_for_a_result(mode):
    """A stock call either raises or returns an object without any choice to read."""
    async with open_desk(mode) as desk, desk.sdk() as client:
        try:
            completion = await create(client)
        except openai.BadRequestError:
            assert mode is AnswerMode.RAISE
        else:
            with pytest.raises(TypeError):
                completion.choices[0]
        with pytest.raises((TypeError, openai.BadRequestError)):
            await client.chat.completions.parse(model="m", messages=MESSAGES)


async def test_wait_prefers_the_result_that_comes_in_time():
    body = spaced(chat_completion("In time."))
    async with (
        open_desk(AnswerMode.JOB, prefer_wait_s=20, preference_applied=True) as desk,
        desk.sdk() as client,
        asyncio.TaskGroup() as tasks,
    ):
        call = tasks.create_task(
            client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
        )
        job_id = await desk.held()
        desk.advance(19)
        await desk.succeed(job_id, body)
        raw = await call

    assert (raw.status_code, raw.content) == (200, body)
    assert raw.headers["preference-applied"] == "respond-async, wait=20"
    assert desk.delivery(job_id).state is Answered.FLUSHED


async def test_wait_passes_without_a_byte_and_then_the_job_is_told():
    async with (
        open_desk(AnswerMode.JOB, prefer_wait_s=20, preference_applied=True) as desk,
        desk.sdk() as client,
        asyncio.TaskGroup() as tasks,
    ):
        call = tasks.create_task(
            client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
        )
        await desk.held()
        desk.advance(20)
        raw = await call

    assert raw.status_code == 202
    assert raw.headers["preference-applied"] == "respond-async, wait=20"


async def test_a_silent_wait_ends_before_the_callers_own_patience():
    async with (
        open_desk(AnswerMode.JOB, prefer_wait_s=100, preference_applied=True) as desk,
        raw_post(desk, x_stainless_read_timeout="30") as wire,
    ):
        await desk.held()
        desk.advance(20)
        await wire.to_the_end()

    assert wire.head.startswith(b"HTTP/1.1 202")
    assert b"Preference-Applied: respond-async, wait=20" in wire.head


async def test_a_failure_within_the_wait_keeps_its_status():
    refusal = b'{"error": {"message": "no such model", "code": "model_not_found"}}'
    async with (
        open_desk(AnswerMode.JOB, prefer_wait_s=20, preference_applied=True) as desk,
        desk.sdk() as client,
        asyncio.TaskGroup() as tasks,
    ):

        async def fails() -> None:
            with pytest.raises(openai.NotFoundError) as raised:
                await create(client)
            assert raised.value.response.headers["x-should-retry"] == "false"

        tasks.create_task(fails())
        await desk.fail(await desk.held(), 404, refusal)


async def test_without_room_nobody_is_held_and_the_job_is_told():
    async with (
        open_desk(AnswerMode.JOB, prefer_wait_s=20, preference_applied=True, max_held=0) as desk,
        raw_post(desk) as wire,
    ):
        assert await wire.to_the_end()

    assert wire.head.startswith(b"HTTP/1.1 202")
    assert b"Preference-Applied: respond-async\r\n" in wire.head + b"\r\n"


async def test_a_repeat_that_claims_an_ended_job_gets_the_job_object_in_job_mode():
    async with open_desk(AnswerMode.JOB) as desk, desk.sdk() as client:
        await create(client)
        await desk.succeed(desk.jobs[0], spaced(chat_completion()))

        raw = await client.chat.completions.with_raw_response.create(
            model="m", messages=MESSAGES, extra_headers={"x-stainless-retry-count": "1"}
        )

    job = json.loads(raw.content)
    assert len(desk.jobs) == 1
    assert raw.status_code == 202
    assert (job["id"], job["status"]) == (desk.jobs[0], "completed")
    assert job["result"]["url"] == f"/v1/jobs/{desk.jobs[0]}/result"
    assert "retry-after" not in raw.headers


async def test_a_repeat_that_claims_an_ended_response_never_sees_a_hollow_success():
    async with open_desk(AnswerMode.JOB, endpoint=RESPONSES) as desk, desk.sdk() as client:
        await client.responses.create(model="m", input="x")
        await desk.succeed(desk.jobs[0], spaced(response_body()))

        response = await client.responses.create(
            model="m", input="x", extra_headers={"x-stainless-retry-count": "1"}
        )

    assert (response.id, response.status) == (desk.jobs[0], "in_progress")


async def test_a_repeat_that_waits_gets_an_ended_jobs_exact_body_at_once():
    body = spaced(chat_completion())
    async with open_desk(AnswerMode.WAIT) as desk:
        async with raw_post(desk):
            job_id = await desk.held()
        await wait_until(lambda: desk.delivery(job_id).state is Answered.BROKEN)
        await desk.succeed(job_id, body, request_id="req_7")

        async with raw_post(desk) as wire:
            assert await wire.to_the_end()

    assert wire.head.startswith(b"HTTP/1.1 200")
    assert wire.body == body
    assert f"X-Deferrable-Job: {job_id}".encode() in wire.head
    assert b"x-request-id: req_7" in wire.head
    assert b"x-should-retry" not in wire.head
    assert b"Content-Encoding" not in wire.head


@pytest.mark.parametrize(
    ("event", "code"), [(DeadlinePassed, "deadline_passed"), (CancelRequested, "job_cancelled")]
)
async def test_an_end_without_an_answer_is_an_error_that_nobody_repeats(event, code):
    async with (
        open_desk(AnswerMode.WAIT) as desk,
        desk.sdk(max_retries=5) as client,
        asyncio.TaskGroup() as tasks,
    ):

        async def fails() -> None:
            with pytest.raises(openai.BadRequestError) as raised:
                await create(client)
            assert raised.value.code == code

        tasks.create_task(fails())
        job_id = await desk.held()
        await desk.end(job_id, event(desk.clock.now()))

    assert len(desk.posts) == 1


async def test_n_identical_calls_are_n_jobs_in_every_mode():
    async with open_desk(AnswerMode.JOB) as desk, desk.sdk() as client:
        raws = [
            await client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
            for _ in range(3)
        ]

    assert len({raw.headers["x-deferrable-job"] for raw in raws}) == 3
