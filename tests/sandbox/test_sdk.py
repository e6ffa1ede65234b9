"""The official SDK, synchronous and asynchronous, finds what it expects."""

import asyncio
import io

import pydantic
from openai import OpenAI

from tests.sandbox.rigs import KEY, chat_body, jsonl, line


def use_everything(base_url: str) -> None:
    """Go once through the API with the synchronous SDK."""
    with OpenAI(base_url=f"{base_url}/v1", api_key=KEY, max_retries=0) as client:
        answer = client.chat.completions.create(**chat_body())
        assert answer.choices[0].message.content
        words = [
            chunk.choices[0].delta.content or ""
            for chunk in client.chat.completions.create(**chat_body(), stream=True)
        ]
        assert "".join(words) == answer.choices[0].message.content
        response = client.responses.create(model="gpt-5.4-mini", input="hello")
        assert response.output_text
        embedded = client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
        assert len(embedded.data[1].embedding) == 16
        assert client.moderations.create(input="a").results[0].flagged is False
        drawn = client.images.generate(model="gpt-image-1.5", prompt="a cat")
        assert drawn.data
        assert drawn.data[0].b64_json
        assert "gpt-5.4-mini" in [model.id for model in client.models.list()]
        text = client.completions.create(model="gpt-3.5-turbo-instruct", prompt="a")
        assert text.choices[0].text


async def test_the_synchronous_sdk_finds_what_it_expects(rig):
    await asyncio.to_thread(use_everything, rig.running.base_url)


async def test_batches_end_to_end_with_the_asynchronous_sdk(slow):
    content = io.BytesIO(jsonl([line(n) for n in range(3)]))
    file = await slow.sdk.files.create(
        file=("in.jsonl", content),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 10_800},
    )
    batch = await slow.sdk.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"tag": "a"},
        output_expires_after={"anchor": "created_at", "seconds": 7_200},
    )
    await slow.running.advance(7_200)

    done = await slow.sdk.batches.retrieve(batch.id)
    listed = [found.id async for found in slow.sdk.batches.list(limit=1)]
    files = [found.id async for found in slow.sdk.files.list(purpose="batch_output", limit=1)]
    output = await slow.sdk.files.content(done.output_file_id)

    assert file.expires_at == file.created_at + 10_800
    assert done.status == "completed"
    assert done.usage.total_tokens > 0
    assert listed == [batch.id]
    assert files == [done.output_file_id]
    assert len(output.text.splitlines()) == 3
    assert (await slow.sdk.files.delete(file.id)).deleted


async def test_the_sdk_pages_through_a_long_list(rig):
    made = [(await rig.submit([line()]))["id"] for _ in range(5)]

    assert [batch.id async for batch in rig.sdk.batches.list(limit=2)] == made[::-1]


async def test_a_background_response_with_the_sdk(slow):
    created = await slow.sdk.responses.create(model="gpt-5.4", input="hello", background=True)
    await slow.running.settle()

    done = await slow.sdk.responses.retrieve(created.id)

    assert created.status == "queued"
    assert done.status == "completed"
    assert done.output_text


async def test_the_sdks_stream_helper_accumulates_a_response(rig):
    async with rig.sdk.responses.stream(model="gpt-5.4", input="hello") as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_response()

    direct = await rig.sdk.responses.create(model="gpt-5.4", input="hello")
    assert final.output_text == direct.output_text


class Forecast(pydantic.BaseModel):
    city: str
    degrees: int
    tags: list[str]


async def test_structured_outputs_fit_their_schema(rig):
    messages = [{"role": "user", "content": "weather?"}]

    chat = await rig.sdk.chat.completions.parse(
        model="gpt-5.4", messages=messages, response_format=Forecast
    )
    response = await rig.sdk.responses.parse(
        model="gpt-5.4", input="weather?", text_format=Forecast
    )

    assert isinstance(chat.choices[0].message.parsed, Forecast)
    assert isinstance(response.output_parsed, Forecast)
