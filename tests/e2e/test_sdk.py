"""The stock `openai` SDK, through the real process: direct calls untouched, every answer mode."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, OpenAI
from openai.types import CreateEmbeddingResponse, ImagesResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from pydantic import BaseModel

from proxy.sandbox import Running as Provider
from proxy.sandbox import SandboxSettings
from tests.e2e.processes import KEY, Proxy, proxy_and_provider, right_answer
from tests.helpers.raw_upstream import Message, RawUpstream, replying, wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "gpt-4o-mini"
ODD_BODY = b'{"id": "x",\n  "object":"chat.completion","choices":[],"n": 1.0e2, "\\u00e9": null }\n'
"""What no encoder would write, so that only the very bytes are equal."""

ODD_HEAD = (
    b"HTTP/1.1 200 Odd Reason\r\nContent-Type: application/json\r\nX-Request-Id: req_odd\r\n"
    b"openai-processing-ms: 7\r\nX-RateLimit-Remaining: 9\r\nSet-Cookie: a=1\r\n"
    b"Set-Cookie: b=2\r\nContent-Length: %d\r\n\r\n" % len(ODD_BODY)
)


@dataclass(frozen=True)
class Scene:
    """One proxy, its sandbox provider, and a second upstream that records bytes."""

    proxy: Proxy
    provider: Provider
    recorder: RawUpstream

    def sdk(self, **headers: str) -> AsyncOpenAI:
        return self.proxy.sdk(default_headers=headers)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with (
        RawUpstream(replying(ODD_HEAD + ODD_BODY)) as recorder,
        proxy_and_provider(
            tmp_path_factory.mktemp("sdk"),
            provider_settings=SandboxSettings(),
            upstreams={"recorder": f"http://127.0.0.1:{recorder.port}"},
        ) as (proxy, provider),
    ):
        yield Scene(proxy, provider, recorder)


def messages(prompt: str) -> Any:
    return [{"role": "user", "content": prompt}]


# Calls that nobody defers.

CALLS: dict[str, Callable[[Any], Any]] = {
    "chat": lambda sdk: sdk.chat.completions.with_raw_response.create(
        model=MODEL, messages=messages("Wörter, \u2028 and “quotes”")
    ),
    "responses": lambda sdk: sdk.responses.with_raw_response.create(model=MODEL, input="hi"),
    "embeddings": lambda sdk: sdk.embeddings.with_raw_response.create(model="e", input=["a", "b"]),
    "models": lambda sdk: sdk.models.with_raw_response.retrieve("gpt/4o%2F x"),
    "upload": lambda sdk: sdk.files.with_raw_response.create(
        file=("a.jsonl", b'{"a": 1}\n'), purpose="batch", extra_headers={"Content-Type": FORM}
    ),
    "delete": lambda sdk: sdk.files.with_raw_response.delete("file-1"),
    "untagged": lambda sdk: sdk.chat.completions.with_raw_response.create(
        model=MODEL, messages=messages("x"), extra_headers={"Prefer": "wait=3, handling=lenient"}
    ),
}
FORM = "multipart/form-data; boundary=fixed"


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("call", CALLS)
async def test_an_interactive_call_is_byte_for_byte_the_direct_one(
    scene: Scene, kind: str, call: str
) -> None:
    direct = f"http://127.0.0.1:{scene.recorder.port}/v1"
    proxied = f"{scene.proxy.base_url}/recorder/v1"

    asked, told = [], []
    for base_url in (direct, proxied):
        told.append(await _raw_call(kind, base_url, CALLS[call]))
        asked.append(scene.recorder.requests[-1])

    assert _sent(asked[1]) == _sent(asked[0])
    assert asked[1].body == asked[0].body
    assert told[1] == told[0]
    assert told[1][0] == 200
    assert told[1][2] == ODD_BODY


async def _raw_call(
    kind: str, base_url: str, call: Callable[[Any], Any]
) -> tuple[int, list[tuple[str, str]], bytes]:
    if kind == "async":
        async with AsyncOpenAI(base_url=base_url, api_key=KEY) as sdk:
            raw = await call(sdk)
    else:

        def blocking() -> Any:
            with OpenAI(base_url=base_url, api_key=KEY) as sdk:
                return call(sdk)

        raw = await asyncio.to_thread(blocking)
    answer = raw.http_response
    return answer.status_code, answer.headers.multi_items(), answer.content


def _sent(message: Message) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Return the head less what is between two neighbours only (RFC 9110, section 7.6.1)."""
    kept = [(name, value) for name, value in message.fields if name.lower() != b"connection"]
    return message.start_line, kept


async def test_an_upstreams_error_reaches_the_sdk_as_its_own(scene: Scene) -> None:
    async with (
        scene.proxy.sdk() as proxied,
        scene.proxy.sdk(base_url=f"{scene.provider.base_url}/v1") as direct,
    ):
        errors = []
        for sdk in (direct, proxied):
            with pytest.raises(openai.NotFoundError) as raised:
                await sdk.chat.completions.create(model="no-such", messages=messages("x"))
            errors.append((raised.value.code, raised.value.body, raised.value.response.content))

    assert errors[1] == errors[0]


async def test_a_direct_stream_arrives_event_by_event(scene: Scene) -> None:
    async with scene.sdk() as sdk:
        stream = await sdk.chat.completions.create(
            model=MODEL, messages=messages("stream"), stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert text == right_answer("stream")


async def test_with_a_tag_on_everything_what_cannot_run_later_runs_now(scene: Scene) -> None:
    async with scene.sdk(**{"X-Deferrable": "wait"}) as sdk:
        models = await sdk.models.list()
        file = await sdk.files.create(file=("a.jsonl", b"{}\n"), purpose="batch")
        content = await sdk.files.content(file.id)

    assert MODEL in {model.id for model in models.data}
    assert content.content == b"{}\n"


# Every answer mode.


@pytest.mark.parametrize("tag", ["true", "job"])
async def test_a_job_is_retrieved_as_a_typed_completion(scene: Scene, tag: str) -> None:
    prompt = f"job by {tag}"
    async with scene.sdk(**{"X-Deferrable": tag}) as sdk:
        job = await sdk.chat.completions.create(model=MODEL, messages=messages(prompt))
        answer = await sdk.chat.completions.retrieve(job.id)
        again = await sdk.with_options(base_url=f"{scene.proxy.base_url}/openai/v1").get(
            f"/jobs/{job.id}", cast_to=ChatCompletion
        )

    assert job.id.startswith("job_")
    assert isinstance(answer, ChatCompletion)
    assert answer.choices[0].message.content == right_answer(prompt)
    assert answer.usage is not None
    assert answer.object == "chat.completion"
    assert again == answer


async def test_the_synchronous_sdk_defers_waits_and_retrieves_alike(scene: Scene) -> None:
    def blocking() -> tuple[str | None, ...]:
        with OpenAI(base_url=f"{scene.proxy.base_url}/v1", api_key=KEY, max_retries=0) as sdk:
            job = sdk.chat.completions.create(
                model=MODEL, messages=messages("sync"), extra_headers={"X-Deferrable": "job"}
            )
            waited = sdk.chat.completions.create(
                model=MODEL, messages=messages("sync"), extra_headers={"X-Deferrable": "wait"}
            )
            retrieved = sdk.chat.completions.retrieve(job.id)
            return waited.choices[0].message.content, retrieved.choices[0].message.content

    # In a thread: the provider answers in this one.
    assert await asyncio.to_thread(blocking) == (right_answer("sync"),) * 2


async def test_the_raw_response_of_a_job_says_where_it_is(scene: Scene) -> None:
    async with scene.sdk(**{"X-Deferrable": "job"}) as sdk:
        raw = await sdk.chat.completions.with_raw_response.create(
            model=MODEL, messages=messages("raw")
        )
        job_id = raw.headers["x-deferrable-job"]
        answer = await sdk.chat.completions.with_raw_response.retrieve(job_id)

    assert raw.status_code == 202
    assert raw.headers["location"] == f"/v1/jobs/{job_id}"
    assert int(raw.headers["retry-after"]) >= 1
    assert json.loads(raw.text)["object"] == "deferrable.job"
    assert answer.parse().choices[0].message.content == right_answer("raw")


async def test_a_held_call_is_answered_with_the_typed_completion(scene: Scene) -> None:
    async with scene.sdk(**{"X-Deferrable": "wait"}) as sdk:
        answer = await sdk.chat.completions.create(model=MODEL, messages=messages("held"))

    assert isinstance(answer, ChatCompletion)
    assert answer.choices[0].message.content == right_answer("held")


async def test_a_held_call_gets_what_the_direct_one_gets_but_for_ids_and_time(
    scene: Scene,
) -> None:
    async with scene.sdk() as sdk:
        direct, held = [
            (
                await sdk.chat.completions.create(
                    model=MODEL, messages=messages("alike"), n=2, seed=7, extra_headers=headers
                )
            ).model_dump(exclude={"id", "created", "service_tier"})
            for headers in ({}, {"X-Deferrable": "wait"})
        ]

    assert held == direct


async def test_a_held_stream_is_the_native_event_sequence(scene: Scene) -> None:
    async with scene.sdk(**{"X-Deferrable": "wait"}) as sdk:
        stream = await sdk.chat.completions.create(
            model=MODEL,
            messages=messages("held stream"),
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]

    told = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(choice.delta.content or "" for choice in told) == right_answer("held stream")
    assert told[-1].finish_reason == "stop"
    assert chunks[-1].usage is not None


async def test_a_held_stream_of_a_response_ends_with_the_whole_response(scene: Scene) -> None:
    async with scene.sdk(**{"X-Deferrable": "wait"}) as sdk:
        direct = await sdk.responses.create(
            model=MODEL, input="r", extra_headers={"X-Deferrable": "false"}
        )
        async with sdk.responses.stream(model=MODEL, input="r") as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_response()

    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert final.output_text == direct.output_text


class Ticket(BaseModel):
    kind: str
    urgency: int


async def test_structured_output_parses_in_a_held_call(scene: Scene) -> None:
    async with scene.sdk(**{"X-Deferrable": "wait"}) as sdk:
        answer = await sdk.chat.completions.parse(
            model=MODEL, messages=messages("ticket"), response_format=Ticket
        )

    assert isinstance(answer.choices[0].message.parsed, Ticket)


async def test_a_background_response_is_polled_as_natively(scene: Scene) -> None:
    async with scene.sdk() as sdk:
        answer = await sdk.responses.create(
            model=MODEL, input="later", extra_headers={"X-Deferrable": "background"}
        )
        first = answer
        async with asyncio.timeout(30):
            while answer.status in {"queued", "in_progress"}:
                answer = await sdk.responses.retrieve(first.id)
                await asyncio.sleep(0.05)

    assert isinstance(first, Response)
    assert (first.status, first.background, first.output) == ("queued", True, [])
    assert answer.status == "completed"
    assert "later" in answer.output_text


async def test_a_background_response_is_cancelled_as_natively(scene: Scene) -> None:
    async with scene.sdk() as sdk:
        answer = await sdk.responses.create(
            model=MODEL, input="never mind", extra_headers={"X-Deferrable": "background"}
        )
        cancelled = await sdk.responses.cancel(answer.id)
        shown = await sdk.responses.retrieve(answer.id)

    assert [cancelled.status, shown.status] == ["cancelled", "cancelled"]


async def test_a_raised_job_is_found_by_its_id(scene: Scene) -> None:
    async with scene.sdk(**{"X-Deferrable": "raise"}) as sdk:
        with pytest.raises(openai.BadRequestError) as raised:
            await sdk.chat.completions.create(model=MODEL, messages=messages("loud"))
        job_id = raised.value.response.headers["x-deferrable-job"]
        answer = await sdk.chat.completions.retrieve(job_id)

    assert raised.value.code == "deferred_accepted"
    assert job_id in raised.value.message
    assert answer.choices[0].message.content == right_answer("loud")


async def test_a_preference_is_confirmed_and_brings_the_result_if_it_comes_in_time(
    scene: Scene,
) -> None:
    async with scene.sdk() as sdk:
        create = sdk.chat.completions.with_raw_response.create
        at_once = await create(
            model=MODEL, messages=messages("p1"), extra_headers={"Prefer": "respond-async"}
        )
        waited = await create(
            model=MODEL, messages=messages("p2"), extra_headers={"Prefer": "respond-async, wait=30"}
        )

    assert (at_once.status_code, at_once.headers["preference-applied"]) == (202, "respond-async")
    assert waited.status_code == 200
    assert waited.headers["preference-applied"] == "respond-async, wait=30"
    assert waited.parse().choices[0].message.content == right_answer("p2")


async def test_embeddings_are_typed_when_held(scene: Scene) -> None:
    async with scene.sdk() as sdk:
        direct, held = [
            await sdk.embeddings.create(
                model="text-embedding-3-small", input=["a", "b"], extra_headers=headers
            )
            for headers in ({}, {"X-Deferrable": "wait"})
        ]

    assert isinstance(held, CreateEmbeddingResponse)
    assert [one.embedding for one in held.data] == [one.embedding for one in direct.data]


async def test_embeddings_as_a_job_never_lose_their_id(scene: Scene) -> None:
    async with scene.sdk(**{"X-Deferrable": "job"}) as sdk:
        with pytest.raises(openai.BadRequestError) as raised:
            await sdk.embeddings.create(model="text-embedding-3-small", input="a")
        job_id = raised.value.response.headers["x-deferrable-job"]
        answer = await sdk.with_options(base_url=f"{scene.proxy.base_url}/openai/v1").get(
            f"/jobs/{job_id}", cast_to=CreateEmbeddingResponse
        )

    assert len(answer.data) == 1


IMAGE: Any = {"model": "gpt-image-1.5", "prompt": "a cat", "background": "transparent"}


async def test_images_are_the_direct_ones_held_streamed_and_as_a_job(scene: Scene) -> None:
    async with scene.sdk() as sdk:
        direct, held = [
            await sdk.images.generate(**IMAGE, n=2, extra_headers=headers)
            for headers in ({}, {"X-Deferrable": "wait"})
        ]
        stream = await sdk.images.generate(
            **IMAGE, n=2, stream=True, partial_images=1, extra_headers={"X-Deferrable": "wait"}
        )
        events: Any = [event async for event in stream]
        job: Any = await sdk.images.generate(**IMAGE, n=2, extra_headers={"X-Deferrable": "job"})
        fetched = await sdk.get(f"/images/generations/{job.id}", cast_to=ImagesResponse)

    drawn = [one.b64_json for one in direct.data or ()]
    assert len(drawn) == 2
    assert held.background == "transparent"
    for answer in (held, fetched):
        assert [one.b64_json for one in answer.data or ()] == drawn
    assert [event.b64_json for event in events] == drawn
    assert {event.type for event in events} == {"image_generation.completed"}


async def test_what_edits_an_image_by_upload_runs_now_and_by_reference_later(scene: Scene) -> None:
    """An upload is for no batch; the SDK has no other way, but the API has."""
    asked = {**IMAGE, "images": [{"file_id": "file-1"}]}
    async with scene.sdk(**{"X-Deferrable": "true"}) as sdk:
        with pytest.raises(openai.BadRequestError, match="JSON") as refused:
            await sdk.images.edit(**IMAGE, image=b"png")
        job: Any = await sdk.post("/images/edits", body=asked, cast_to=ImagesResponse)
        edited = await sdk.get(f"/images/edits/{job.id}", cast_to=ImagesResponse)

    assert "x-deferrable-job" not in refused.value.response.headers
    assert edited.data
    assert edited.data[0].b64_json


async def test_a_failed_line_raises_what_the_direct_call_raises(scene: Scene) -> None:
    async with scene.sdk() as sdk:
        errors = []
        for headers in ({}, {"X-Deferrable": "wait"}):
            with pytest.raises(openai.BadRequestError) as raised:
                await sdk.chat.completions.create(
                    model=MODEL, messages=messages("x"), temperature=9, extra_headers=headers
                )
            errors.append((raised.value.code, raised.value.param, raised.value.body))

    assert errors[1] == errors[0]


async def test_jobs_are_listed_fetched_in_bulk_cancelled_and_deleted(scene: Scene) -> None:
    headers = {"X-Deferrable": "job", "X-Deferrable-Tags": "suite=bulk"}
    prompts = ["one", "two", "three"]
    async with scene.proxy.sdk("sk-canary-bulk") as sdk:
        for prompt in prompts:
            await sdk.chat.completions.create(
                model=MODEL, messages=messages(prompt), extra_headers=headers
            )
        listed = await sdk.get("/jobs?tag=suite=bulk", cast_to=object)
        ids = [job["id"] for job in listed["data"]]  # type: ignore[index]
        for job_id in ids:
            await sdk.chat.completions.retrieve(job_id)
        lines = await sdk.post("/jobs/results", body={"ids": ids}, cast_to=str)
        await sdk.delete(f"/jobs/{ids[0]}", cast_to=object)
        with pytest.raises(openai.NotFoundError):
            await sdk.get(f"/jobs/{ids[0]}", cast_to=object)

    told = [json.loads(line) for line in lines.splitlines()]
    assert len(told) == len(prompts)
    assert [line["id"] for line in told] == ids


async def test_an_answer_that_was_delivered_is_logged_so_however_fast_its_caller_leaves(
    scene: Scene,
) -> None:
    async with scene.proxy.sdk(
        "sk-canary-hurried", default_headers={"X-Deferrable": "job", "Connection": "close"}
    ) as sdk:
        jobs = await asyncio.gather(
            *[
                sdk.chat.completions.create(model=MODEL, messages=messages(f"hurry {number}"))
                for number in range(30)
            ]
        )

    ids = {job.id for job in jobs}

    def told() -> list[tuple[str, int]]:
        events = scene.proxy.events("call.deferred")
        return [(one["outcome"], one["status"]) for one in events if one["job_id"] in ids]

    await wait_until(lambda: len(told()) == len(ids))
    assert set(told()) == {("answered", 202)}
