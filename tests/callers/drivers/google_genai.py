"""The stock `google-genai` SDK."""

import asyncio
import json
import time
import urllib.request
from typing import Any

from google import genai
from google.genai import types

from tests.callers.drivers.stage import QUESTION, Call, Told, play, usual

MODEL = "gemini-2.5-flash"
EMBEDDER = "gemini-embedding-001"


def client(call: Call) -> genai.Client:
    at = types.HttpOptions(base_url=call.url, headers=call.headers)
    return genai.Client(api_key=call.key, http_options=at)


def ask(call: Call) -> str:
    # The client closes its connections when nobody holds it any more.
    sdk = client(call)
    return sdk.models.generate_content(model=MODEL, contents=QUESTION).text or ""


def stream(call: Call) -> str:
    sdk = client(call)
    chunks = sdk.models.generate_content_stream(model=MODEL, contents=QUESTION)
    return "".join(chunk.text or "" for chunk in chunks)


def ask_asynchronously(call: Call) -> str:
    async def asked() -> str:
        async with client(call).aio as sdk:
            answer = await sdk.models.generate_content(model=MODEL, contents=QUESTION)
            return answer.text or ""

    return asyncio.run(asked())


def embed(call: Call) -> str:
    sdk = client(call)
    answer = sdk.models.embed_content(model=EMBEDDER, contents=QUESTION)
    (one,) = answer.embeddings or []
    return str(one.values)


def job(call: Call) -> Told:
    """It has no method for other paths, so that the result comes by plain HTTP."""
    sdk = client(call)
    hollow: Any = sdk.models.generate_content(model=MODEL, contents=QUESTION)
    assert hollow.text is None
    headers = {name.lower(): value for name, value in hollow.sdk_http_response.headers.items()}
    job_id = headers["x-deferrable-job"]
    request = urllib.request.Request(
        f"{call.url}/v1/jobs/{job_id}/result?wait=60", headers={"x-goog-api-key": call.key}
    )
    while True:
        with urllib.request.urlopen(request) as answer:
            if answer.status == 200:
                found = json.load(answer)
                return Told(job_id, found["candidates"][0]["content"]["parts"][0]["text"])
        time.sleep(0.1)


if __name__ == "__main__":
    play(
        {
            **usual(ask, stream),
            "job": job,
            "wait, asynchronous": ask_asynchronously,
            "wait, embeddings by a call": embed,
            "job, refused for a stream": stream,
        },
        "google-genai",
    )
