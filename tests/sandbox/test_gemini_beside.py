"""Gemini by its OpenAI API, as its documentation shows it: two SDKs, each for its part."""

import json
from typing import Any

import openai
import pytest
from google import genai
from google.genai import types

from proxy.sandbox import Sandbox, SandboxSettings

KEY = "sk-canary-beside"


@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession")
async def test_a_batch_is_uploaded_by_one_sdk_created_by_the_other_and_read_by_the_first(tmp_path):
    lines = tmp_path / "input.jsonl"
    body: Any = {"model": "gpt-5.4-mini", "messages": [{"role": "user", "content": "hello"}]}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    lines.write_text(json.dumps(line))

    async with Sandbox(SandboxSettings(time_scale=0)).serve() as server:
        prefix = f"{server.base_url}/gemini-openai"
        native = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=prefix)).aio
        async with openai.AsyncOpenAI(base_url=f"{prefix}/v1beta/openai", api_key=KEY) as sdk:
            direct = await sdk.chat.completions.create(**body)
            file = await native.files.upload(
                file=lines, config=types.UploadFileConfig(mime_type="application/jsonl")
            )
            batch = await sdk.batches.create(
                input_file_id=file.name or "",
                endpoint="/v1/chat/completions",
                completion_window="24h",
            )
            await server.advance(86_400)
            ended = await sdk.batches.retrieve(batch.id)
            results = await native.files.download(file=ended.output_file_id or "")
            listed = [one.name async for one in await native.files.list()]

    assert (batch.status, ended.status) == ("validating", "completed")
    assert batch.id.startswith("batches/")
    assert listed == [ended.output_file_id, file.name]
    answer = json.loads(results)["response"]["body"]
    assert answer["choices"] == direct.model_dump(exclude_unset=True)["choices"]


async def test_files_are_not_served_by_the_openai_api_and_errors_come_in_a_list():
    async with Sandbox(SandboxSettings()).serve() as server:
        base_url = f"{server.base_url}/gemini-openai/v1beta/openai"
        async with openai.AsyncOpenAI(base_url=base_url, api_key=KEY, max_retries=0) as sdk:
            with pytest.raises(openai.NotFoundError):
                await sdk.files.create(file=b"{}", purpose="batch")
            server.keys.revoke(KEY)
            with pytest.raises(openai.BadRequestError) as raised:
                await sdk.chat.completions.create(model="m", messages=[])

    (error,) = raised.value.response.json()
    assert error["error"]["details"][0]["reason"] == "API_KEY_INVALID"
