"""What stock SDKs retrieve by a job's ID, as if it were the provider's own object."""

import json

import openai
import pytest

from proxy.core.ids import JobId
from proxy.core.job import JobState
from tests.helpers.factories import IDS
from tests.web.house import CHAT, COMPLETION

RESPONSE_BODY = {"model": "gpt-4o-mini", "input": "hello"}
RESPONSE = json.dumps(
    {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": "gpt-4o-mini",
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }
).encode()


async def test_the_stock_sdk_retrieves_a_completion_by_its_job(house):
    job = await house.job()
    async with house.sdk() as client:
        asking = house.tasks.create_task(client.chat.completions.retrieve(job.id))
        await house.held()
        await house.finish(job)
        completion = await asking

    assert completion.id == "chatcmpl-1"


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/chat/completions/{}", "/openai/v1/chat/completions/{}"),
        *("/v1/messages/{}", "/v1/embeddings/{}", "/jobs/{}", "/a/b/jobs/{}"),
        *("/v1/images/generations/{}", "/v1/images/edits/{}"),
    ],
)
async def test_a_typed_path_brings_the_providers_body_itself(house, path):
    job = await house.finish(await house.job())

    reply = await house.send("GET", path.format(job.id))

    assert (reply.status, reply.body) == (200, COMPLETION)


async def test_a_failed_job_answers_its_own_status_on_a_typed_path(house):
    body = b'{"error":{"message":"too long","code":"context_length_exceeded"}}'
    job = await house.finish(await house.job(), body, 400)

    async with house.sdk() as client:
        with pytest.raises(openai.BadRequestError) as raised:
            await client.chat.completions.retrieve(job.id)

    assert raised.value.code == "context_length_exceeded"


async def test_how_long_a_typed_retrieval_is_held_is_the_callers_choice(house):
    job = await house.job()

    reply = await house.send("GET", f"{CHAT}/{job.id}", headers={"Prefer": "wait=0"})

    assert (reply.status, reply.json["error"]["code"]) == (409, "job_pending")


async def test_a_typed_retrieval_of_nothing_speaks_the_providers_dialect(house):
    job = IDS.job()

    openai_like = await house.send("GET", f"{CHAT}/{job}")
    anthropic = await house.send("GET", f"/anthropic/v1/jobs/{job}")
    ours = await house.send("GET", f"/v1/jobs/{job}")

    assert set(openai_like.json) == {"error"}
    assert anthropic.json["type"] == "error"
    assert ours.json["title"] == "Not Found"


@pytest.mark.parametrize("path", ["/v1/responses/{}/input_items", "/v1/messages/batches/{}"])
async def test_what_a_job_has_not_got_is_told_with_what_it_has(house, path):
    job = await house.job()

    reply = await house.send("GET", path.format(job.id))

    assert reply.status == 404
    assert f"/v1/jobs/{job.id}/result" in reply.json["error"]["message"]


async def test_the_stock_sdk_is_told_where_a_job_is_deleted(house):
    job = await house.job()
    async with house.sdk() as client:
        with pytest.raises(openai.APIStatusError, match=f"/v1/jobs/{job.id} takes DELETE"):
            await client.responses.delete(job.id)


async def test_the_stock_sdk_follows_a_background_response_to_its_end(house):
    async with house.sdk(default_headers={"X-Deferrable": "background"}) as client:
        created = await client.responses.create(**RESPONSE_BODY)
        queued = await client.responses.retrieve(created.id)
        await house.finish(await house.stores.jobs.get(JobId(created.id)), RESPONSE)
        done = await client.responses.retrieve(created.id)

    assert created.status == queued.status == "queued"
    assert (done.id, done.status) == ("resp_1", "completed")


async def test_the_stock_sdk_is_told_that_a_response_cannot_be_retrieved_as_a_stream(house):
    """It would find no event in a whole Response, and take that for an empty stream."""
    async with house.sdk(default_headers={"X-Deferrable": "background"}) as client:
        created = await client.responses.create(**RESPONSE_BODY)
        with pytest.raises(openai.BadRequestError, match="retrieve it without `stream`"):
            await client.responses.retrieve(created.id, stream=True)
        await house.finish(await house.stores.jobs.get(JobId(created.id)), RESPONSE)
        with pytest.raises(openai.BadRequestError, match="retrieve it without `stream`"):
            await client.responses.retrieve(created.id, stream=True)

        assert (await client.responses.retrieve(created.id, stream=False)).id == "resp_1"


async def test_the_stock_sdk_cancels_a_background_response(house):
    async with house.sdk(default_headers={"X-Deferrable": "background"}) as client:
        created = await client.responses.create(**RESPONSE_BODY)
        cancelled = await client.responses.cancel(created.id)
        again = await client.responses.retrieve(created.id)

    assert cancelled.status == again.status == "cancelled"


async def test_a_response_that_has_ended_is_what_its_cancellation_answers(house):
    job = await house.finish(await house.job(path="/v1/responses", body=RESPONSE_BODY), RESPONSE)

    reply = await house.send("POST", f"/v1/responses/{job.id}/cancel")

    assert (reply.status, reply.body) == (200, RESPONSE)


async def test_a_completion_is_not_cancelled_as_a_response(house):
    job = await house.job()

    reply = await house.send("POST", f"/v1/responses/{job.id}/cancel")

    assert reply.status == 404
    assert (await house.stores.jobs.get(job.id)).state is JobState.QUEUED
