"""Connections held over real sockets, while the test moves the time."""

import asyncio
import json
import threading
from typing import Any

import openai
import pytest

from proxy.core.errors import StoreCorruptError, StoreUnavailableError
from proxy.core.ids import JobId
from proxy.core.job import AnswerMode
from proxy.core.repeats import Answered
from proxy.web.answering.held import Rhythm
from tests.helpers.raw_upstream import wait_until
from tests.web.desk import (
    CHAT,
    FAMILIES,
    RESPONSES,
    chat_completion,
    open_desk,
    raw_post,
    response_body,
    spaced,
)

MESSAGES: Any = [{"role": "user", "content": "hello"}]
STREAMED: Any = {"model": "m", "messages": MESSAGES, "stream": True}
REFUSAL = b'{"error": {"message": "no such model", "type": "x", "code": "model_not_found"}}'
BEAT = b"1\r\n\n\r\n"
"""One LF as a chunk."""


@pytest.mark.parametrize(
    ("read_timeout_s", "first_after_s", "every_s"),
    [
        (None, 20, 10),
        (600, 20, 10),
        (30, 10, 10),
        (12, 4, 4),
        (0.001, 1, 1),
        (1e9, 20, 10),
    ],
)
def test_two_heartbeats_may_be_lost_before_the_caller_gives_up(
    read_timeout_s, first_after_s, every_s
):
    rhythm = Rhythm.of(heartbeat_after_s=20, read_timeout_s=read_timeout_s)

    assert rhythm == Rhythm(first_after_s, every_s)


async def test_nothing_is_sent_before_the_first_heartbeat_is_due():
    async with open_desk(AnswerMode.WAIT) as desk, raw_post(desk) as wire:
        job_id = await desk.held()
        desk.advance(19.9)
        await desk.fail(job_id, 404, REFUSAL)
        assert await wire.to_the_end()

    assert wire.head.startswith(b"HTTP/1.1 404")
    assert wire.body == REFUSAL
    assert b"x-should-retry: false" in wire.head


async def test_heartbeats_come_before_the_exact_body():
    body = spaced(chat_completion())
    async with open_desk(AnswerMode.WAIT) as desk, raw_post(desk) as wire:
        job_id = await desk.held()
        for count, seconds in ((1, 20), (2, 10), (3, 10)):
            await desk.beat(seconds)
            await wire.until(count, BEAT)
        desk.advance(9)
        await desk.succeed(job_id, body)
        assert await wire.to_the_end()

    assert wire.head.startswith(b"HTTP/1.1 200")
    assert b"Content-Type: application/json" in wire.head
    assert b"Content-Encoding" not in wire.head
    assert f"X-Deferrable-Job: {job_id}".encode() in wire.head
    assert wire.body == 3 * BEAT + f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    assert desk.delivery(job_id).state is Answered.FLUSHED


async def test_a_short_read_timeout_of_the_caller_sets_the_pace():
    async with (
        open_desk(AnswerMode.WAIT) as desk,
        raw_post(desk, x_stainless_read_timeout="12") as wire,
    ):
        job_id = await desk.held()
        await desk.beat(4)
        await wire.until(1, BEAT)
        await desk.beat(4)
        await wire.until(2, BEAT)
        await desk.succeed(job_id, b"{}")
        assert await wire.to_the_end()


async def test_the_stock_sdk_reads_over_heartbeats():
    async with (
        open_desk(AnswerMode.WAIT) as desk,
        desk.sdk(timeout=12) as client,
        asyncio.TaskGroup() as tasks,
    ):
        call = tasks.create_task(client.chat.completions.create(model="m", messages=MESSAGES))
        job_id = await desk.held()
        for _ in range(5):
            await desk.beat(4)
        await desk.succeed(job_id, spaced(chat_completion("At last.")))
        completion = await call

    assert completion.choices[0].message.content == "At last."
    assert len(desk.posts) == 1


async def test_the_synchronous_sdk_reads_over_heartbeats_too():
    answers = []
    async with open_desk(AnswerMode.WAIT) as desk:

        def call():
            with openai.OpenAI(base_url=desk.url, api_key="sk-canary") as client:
                answers.append(client.chat.completions.create(model="m", messages=MESSAGES))

        thread = threading.Thread(target=call)
        thread.start()
        job_id = await desk.held()
        await desk.beat(20)
        await desk.succeed(job_id, spaced(chat_completion("At last.")))
        await wait_until(lambda: not thread.is_alive())

    assert answers[0].choices[0].message.content == "At last."


async def test_a_failure_after_the_commit_breaks_the_connection():
    async with open_desk(AnswerMode.WAIT) as desk, raw_post(desk) as wire:
        job_id = await desk.held()
        await desk.beat(20)
        await wire.until(1, BEAT)
        await desk.fail(job_id, 404, REFUSAL)
        assert not await wire.to_the_end()

    assert wire.body == BEAT
    assert desk.delivery(job_id).state is Answered.BROKEN


async def test_a_client_of_http_1_0_does_not_take_the_break_for_the_end():
    async with open_desk(AnswerMode.WAIT) as desk, raw_post(desk, version="1.0") as wire:
        job_id = await desk.held()
        await desk.beat(20)
        await wire.until(1, b"\r\n\r\n\n")
        await desk.fail(job_id, 404, REFUSAL)
        assert not await wire.to_the_end()


async def test_a_client_of_http_1_0_is_told_the_end_by_an_orderly_close():
    async with open_desk(AnswerMode.WAIT) as desk, raw_post(desk, version="1.0") as wire:
        job_id = await desk.held()
        await desk.beat(20)
        await wire.until(1, b"\r\n\r\n\n")
        await desk.succeed(job_id, b'{"a": 1}')
        assert await wire.to_the_end()

    assert wire.body == b'\n{"a": 1}'
    assert desk.delivery(job_id).state is Answered.FLUSHED


async def test_the_sdks_own_retry_after_a_break_is_told_the_true_status():
    async with (
        open_desk(AnswerMode.WAIT) as desk,
        desk.sdk(max_retries=5) as client,
        asyncio.TaskGroup() as tasks,
    ):

        async def fails() -> None:
            with pytest.raises(openai.NotFoundError) as raised:
                await client.chat.completions.create(model="m", messages=MESSAGES)
            assert raised.value.code == "model_not_found"
            assert raised.value.response.headers["x-should-retry"] == "false"

        tasks.create_task(fails())
        job_id = await desk.held()
        await desk.beat(20)
        await desk.fail(job_id, 404, REFUSAL)

    assert [post["x-stainless-retry-count"] for post in desk.posts] == ["0", "1"]
    assert len(desk.jobs) == 1
    assert desk.delivery(job_id).state is Answered.FLUSHED


async def test_of_two_equal_calls_each_retry_is_told_its_own_jobs_status():
    """Both break at once; the retries claim one job each, and nothing is accepted twice."""
    async with open_desk(AnswerMode.WAIT) as desk, desk.sdk(max_retries=5) as client:
        told = []

        async def fails() -> None:
            with pytest.raises(openai.APIStatusError) as raised:
                await client.chat.completions.create(model="m", messages=MESSAGES)
            told.append(
                (raised.value.status_code, raised.value.response.headers["x-deferrable-job"])
            )

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fails())
            tasks.create_task(fails())
            await desk.held(2)
            await desk.beat(20)
            for job_id, status in zip(desk.jobs, (404, 403), strict=True):
                await desk.fail(job_id, status, REFUSAL)

    assert sorted(told) == sorted(zip((404, 403), desk.jobs, strict=True))
    assert len(desk.posts) == 4


async def test_a_timeout_of_the_sdk_leaves_the_job_alive_for_its_retry():
    async with (
        open_desk(AnswerMode.WAIT) as desk,
        desk.sdk(max_retries=20) as client,
        asyncio.TaskGroup() as tasks,
    ):
        call = tasks.create_task(
            client.with_options(timeout=0.3).chat.completions.create(model="m", messages=MESSAGES)
        )
        await wait_until(lambda: len(desk.posts) >= 2)
        await desk.succeed(desk.jobs[0], spaced(chat_completion("Kept.")))
        completion = await call

    assert completion.choices[0].message.content == "Kept."
    assert len(desk.jobs) == 1


@pytest.mark.parametrize("committed", [False, True])
async def test_a_caller_who_leaves_is_noted_as_broken_and_the_job_lives(committed):
    async with open_desk(AnswerMode.WAIT) as desk:
        async with raw_post(desk) as wire:
            job_id = await desk.held()
            if committed:
                await desk.beat(20)
                await wire.until(1, BEAT)

        await wait_until(lambda: desk.delivery(job_id).state is Answered.BROKEN)

        assert desk.holding.count == 0
        assert desk.waiters.count == 0
        assert not (await desk.stores.jobs.get(job_id)).state.is_terminal


async def test_a_caller_who_leaves_while_the_store_is_away_is_noted_by_a_later_pass(monkeypatch):
    async with open_desk(AnswerMode.WAIT) as desk:
        finish = desk.stores.deliveries.finish
        refused: list[JobId] = []

        async def away(notes) -> None:
            refused.extend(note.job_id for note in notes)
            raise StoreUnavailableError("away")

        monkeypatch.setattr(desk.stores.deliveries, "finish", away)
        async with raw_post(desk):
            job_id = await desk.held()
        await wait_until(lambda: refused)
        assert desk.delivery(job_id).state is Answered.WAITING

        monkeypatch.setattr(desk.stores.deliveries, "finish", finish)
        await desk.notes.run_once()

        assert desk.delivery(job_id).state is Answered.BROKEN


async def test_a_store_that_is_away_for_a_while_breaks_no_held_connection(monkeypatch):
    async with open_desk(AnswerMode.WAIT) as desk, raw_post(desk) as wire:
        job_id = await desk.held()
        get = desk.stores.jobs.get

        async def away(job_id) -> None:
            raise StoreUnavailableError("away")

        monkeypatch.setattr(desk.stores.jobs, "get", away)
        desk.advance(5)
        await wait_until(lambda: desk.clock.sleepers)
        desk.advance(15)
        await wire.until(1, BEAT)
        monkeypatch.setattr(desk.stores.jobs, "get", get)
        await wait_until(lambda: desk.clock.sleepers)
        await desk.succeed(job_id, b'{"id": "x"}')
        desk.advance(1)
        assert await wire.to_the_end()

    assert b'{"id": "x"}' in wire.body


@pytest.mark.parametrize("committed", [False, True])
async def test_a_job_that_cannot_be_read_ends_its_hold(monkeypatch, committed):
    async with open_desk(AnswerMode.WAIT) as desk, raw_post(desk) as wire:
        await desk.held()
        if committed:
            await desk.beat(20)
            await wire.until(1, BEAT)

        async def broken(job_id) -> None:
            raise StoreCorruptError("unknown schema")

        monkeypatch.setattr(desk.stores.jobs, "get", broken)
        desk.advance(1)
        ended_in_order = await wire.to_the_end()

    assert ended_in_order is not committed
    assert wire.head.startswith(b"HTTP/1.1 200" if committed else b"HTTP/1.1 503")


async def test_a_job_that_is_erased_while_it_is_held_is_not_found():
    async with open_desk(AnswerMode.WAIT) as desk, raw_post(desk) as wire:
        job_id = await desk.held()
        desk.stores.jobs._memory.erase(job_id)
        desk.advance(1)
        assert await wire.to_the_end()

    assert wire.head.startswith(b"HTTP/1.1 404")


async def test_an_answer_larger_than_every_buffer_counts_only_when_it_is_out():
    body = spaced(chat_completion("x" * 30_000_000))
    async with open_desk(AnswerMode.WAIT) as desk, raw_post(desk) as wire:
        job_id = await desk.held()
        await desk.succeed(job_id, body)
        await wire.until(1, b"\r\n\r\n")
        assert desk.delivery(job_id).state is Answered.WAITING
        assert await wire.to_the_end()
        await wait_until(lambda: desk.delivery(job_id).state is Answered.FLUSHED)

    assert wire.body == body


async def test_a_caller_who_leaves_in_the_middle_of_the_answer_is_noted_as_broken():
    async with open_desk(AnswerMode.WAIT) as desk:
        async with raw_post(desk) as wire:
            job_id = await desk.held()
            await desk.succeed(job_id, spaced(chat_completion("x" * 30_000_000)))
            await wire.until(1, b"\r\n\r\n")
        await wait_until(lambda: desk.delivery(job_id).state is not Answered.WAITING)

    assert desk.delivery(job_id).state is Answered.BROKEN


async def test_draining_turns_away_the_uncommitted_and_keeps_the_others():
    body = spaced(chat_completion())
    async with open_desk(AnswerMode.WAIT) as desk, raw_post(desk) as committed:
        first = await desk.held()
        await desk.beat(20)
        await committed.until(1, BEAT)
        async with raw_post(desk) as uncommitted:
            second = await desk.held(2)

            desk.holding.drain()
            assert await uncommitted.to_the_end()

        assert uncommitted.head.startswith(b"HTTP/1.1 503")
        assert b"Retry-After: 1\r\n" in uncommitted.head
        assert desk.delivery(second).state is Answered.BROKEN
        assert not desk.answers.has_room()
        await desk.succeed(first, body)
        assert await committed.to_the_end()

    assert body in committed.body


async def test_what_the_server_cuts_at_its_shutdown_is_noted_as_broken():
    async with open_desk(AnswerMode.WAIT) as desk, raw_post(desk) as wire:
        job_id = await desk.held()
        await desk.beat(20)
        await wire.until(1, BEAT)

    assert desk.delivery(job_id).state is Answered.BROKEN


# Streams


async def test_a_stream_is_held_with_blank_lines_and_then_synthesised():
    async with (
        open_desk(AnswerMode.WAIT, include_usage=True) as desk,
        desk.sdk() as client,
        asyncio.TaskGroup() as tasks,
    ):
        chunks = []

        async def read() -> None:
            stream = await client.chat.completions.create(**STREAMED)
            chunks.extend([chunk async for chunk in stream])

        tasks.create_task(read())
        job_id = await desk.held()
        await desk.beat(20)
        await desk.succeed(job_id, spaced(chat_completion("A text of some length. " * 20)))

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "A text of some length. " * 20
    assert chunks[-1].usage.total_tokens == 8
    assert desk.delivery(job_id).state is Answered.FLUSHED


async def test_an_early_end_of_a_stream_is_a_stream():
    async with open_desk(AnswerMode.WAIT) as desk, raw_post(desk, body=STREAMED) as wire:
        await desk.succeed(await desk.held(), spaced(chat_completion()), request_id="req_7")
        assert await wire.to_the_end()

    assert wire.head.startswith(b"HTTP/1.1 200")
    assert wire.head.count(b"Content-Type: text/event-stream") == 1
    assert wire.head.count(b"Content-Type") == 1
    assert b"x-request-id: req_7" in wire.head
    assert wire.body.endswith(b"data: [DONE]\n\n")


async def test_an_early_failure_of_a_stream_keeps_its_status_and_body():
    async with open_desk(AnswerMode.WAIT) as desk, raw_post(desk, body=STREAMED) as wire:
        await desk.fail(await desk.held(), 404, REFUSAL)
        assert await wire.to_the_end()

    assert wire.head.startswith(b"HTTP/1.1 404")
    assert wire.body == REFUSAL


async def test_an_early_result_that_cannot_be_streamed_is_an_error():
    async with open_desk(AnswerMode.WAIT) as desk, raw_post(desk, body=STREAMED) as wire:
        await desk.succeed(await desk.held(), b"<html>")
        assert await wire.to_the_end()

    assert wire.head.startswith(b"HTTP/1.1 502")
    assert json.loads(wire.body)["error"]["code"] == "unreadable_result"


@pytest.mark.parametrize("endpoint", [CHAT, RESPONSES])
@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (REFUSAL, "no such model"),
        (b'{"error": "no such model"}', "no such model"),
        (b"<html>teapot</html>", "the provider answered 418"),
    ],
)
async def test_a_failure_of_a_committed_stream_is_raised_by_the_sdk(endpoint, refusal, message):
    async with (
        open_desk(AnswerMode.WAIT, endpoint=endpoint) as desk,
        desk.sdk(max_retries=5) as client,
        asyncio.TaskGroup() as tasks,
    ):

        async def read() -> None:
            if endpoint is CHAT:
                stream = await client.chat.completions.create(**STREAMED)
            else:
                stream = await client.responses.create(model="m", input="x", stream=True)
            with pytest.raises(openai.APIError, match=message):
                await anext(aiter(stream))

        tasks.create_task(read())
        job_id = await desk.held()
        await desk.beat(20)
        await desk.fail(job_id, 418, refusal)

    assert len(desk.posts) == 1
    assert desk.delivery(job_id).state is Answered.FLUSHED


async def test_a_committed_result_that_cannot_be_streamed_is_an_error_event():
    async with open_desk(AnswerMode.WAIT) as desk, raw_post(desk, body=STREAMED) as wire:
        job_id = await desk.held()
        await desk.beat(20)
        await wire.until(1, BEAT)
        await desk.succeed(job_id, b"<html>")
        assert await wire.to_the_end()

    assert b"unreadable_result" in wire.body


async def test_anthropics_streams_beat_with_pings_and_fail_with_its_error_event():
    async with (
        open_desk(AnswerMode.WAIT, dialect=FAMILIES["anthropic"]) as desk,
        raw_post(desk, body=STREAMED) as wire,
    ):
        job_id = await desk.held()
        await desk.beat(20)
        await wire.until(1, b'event: ping\ndata: {"type": "ping"}\n\n')
        await desk.fail(job_id, 404, REFUSAL)
        assert await wire.to_the_end()

    assert b'event: error\ndata: {"type": "error", "error": {"message": "no such' in wire.body


async def test_a_response_is_streamed_to_the_sdks_helper():
    async with (
        open_desk(AnswerMode.WAIT, endpoint=RESPONSES) as desk,
        desk.sdk() as client,
        asyncio.TaskGroup() as tasks,
    ):
        finals = []

        async def read() -> None:
            async with client.responses.stream(model="m", input="x") as stream:
                finals.append(await stream.get_final_response())

        tasks.create_task(read())
        await desk.succeed(await desk.held(), spaced(response_body()))

    assert (finals[0].id, finals[0].output_text) == ("resp_1", "Hello there.")


# Leases and room


async def test_one_pass_renews_the_leases_of_all_who_are_held():
    async with open_desk(AnswerMode.WAIT) as desk, raw_post(desk), raw_post(desk):
        await desk.held(2)
        before = [desk.delivery(job_id).waiter_until for job_id in desk.jobs]
        desk.clock.advance(seconds=10)

        assert await desk.holding.run_once() == 2

        after = [desk.delivery(job_id).waiter_until for job_id in desk.jobs]
        assert [(new - old).total_seconds() for old, new in zip(before, after, strict=True)] == [
            10,
            10,
        ]


async def test_an_equal_call_does_not_claim_from_a_caller_who_is_held_and_renewed():
    async with open_desk(AnswerMode.WAIT) as desk, raw_post(desk):
        await desk.held()
        for _ in range(6):
            desk.advance(10)
            await desk.holding.run_once()
        async with raw_post(desk):
            await desk.held(2)

            assert len(set(desk.jobs)) == 2


async def test_room_is_bounded_and_comes_back():
    async with open_desk(AnswerMode.WAIT, max_held=1) as desk:
        assert desk.answers.has_room()
        async with raw_post(desk):
            await desk.held()
            assert not desk.answers.has_room()
        await wait_until(desk.answers.has_room)


# Typed retrieval


async def test_a_typed_retrieval_is_held_and_then_typed():
    async with (
        open_desk(AnswerMode.JOB) as desk,
        desk.sdk() as client,
        asyncio.TaskGroup() as tasks,
    ):
        await client.chat.completions.create(model="m", messages=MESSAGES)
        job_id = desk.jobs[0]
        call = tasks.create_task(client.chat.completions.retrieve(job_id))
        await desk.held()
        await desk.beat(20)
        assert await desk.holding.run_once() == 0
        await desk.succeed(job_id, spaced(chat_completion("Retrieved.")))
        completion = await call

    assert completion.choices[0].message.content == "Retrieved."


async def test_a_retrieval_of_a_failed_job_is_told_its_own_status():
    async with open_desk(AnswerMode.JOB) as desk, desk.sdk() as client:
        await client.chat.completions.create(model="m", messages=MESSAGES)
        await desk.fail(desk.jobs[0], 404, REFUSAL)

        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.retrieve(desk.jobs[0])


async def test_a_retrieval_that_may_not_wait_is_told_to_come_again_and_the_sdk_does():
    async with open_desk(AnswerMode.JOB) as desk, desk.sdk(max_retries=0) as client:
        await client.chat.completions.create(model="m", messages=MESSAGES)

        with pytest.raises(openai.ConflictError) as raised:
            await client.chat.completions.retrieve(desk.jobs[0], extra_query={"wait": "0"})

    assert raised.value.code == "job_pending"
    assert 1 <= int(raised.value.response.headers["retry-after"]) <= 60


async def test_a_retrieval_is_aborted_after_its_time_and_the_sdk_asks_again():
    async with (
        open_desk(AnswerMode.JOB) as desk,
        desk.sdk(max_retries=1) as client,
        asyncio.TaskGroup() as tasks,
    ):
        await client.chat.completions.create(model="m", messages=MESSAGES)
        job_id = desk.jobs[0]
        call = tasks.create_task(
            client.chat.completions.retrieve(job_id, extra_query={"wait": "25"})
        )
        await desk.held()
        await desk.beat(20)
        desk.advance(5)
        await wait_until(lambda: desk.waiters.count == 0)
        await desk.held()
        await desk.succeed(job_id, spaced(chat_completion("The second time.")))
        completion = await call

    assert completion.choices[0].message.content == "The second time."


async def test_a_retrieval_without_room_is_refused():
    async with open_desk(AnswerMode.JOB, max_held=0) as desk, desk.sdk(max_retries=0) as client:
        await client.chat.completions.create(model="m", messages=MESSAGES)

        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.retrieve(desk.jobs[0])


async def test_a_retrieval_is_turned_away_when_the_instance_drains():
    async with (
        open_desk(AnswerMode.JOB) as desk,
        desk.sdk(max_retries=0) as client,
        asyncio.TaskGroup() as tasks,
    ):
        await client.chat.completions.create(model="m", messages=MESSAGES)

        async def turned_away() -> None:
            with pytest.raises(openai.InternalServerError) as raised:
                await client.chat.completions.retrieve(desk.jobs[0])
            assert raised.value.status_code == 503

        tasks.create_task(turned_away())
        await desk.held()
        desk.holding.drain()
