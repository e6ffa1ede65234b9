"""The stock `openai` SDK, version 3, by the methods that its documentation shows."""

import asyncio
import os
from typing import Any

from openai import AsyncOpenAI, BadRequestError, OpenAI
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from tests.callers.drivers.stage import CHAT_MODEL, MESSAGES, QUESTION, Call, Told, play, usual

EMBEDDER = "text-embedding-3-small"


class Ticket(BaseModel):
    """What structured output is parsed into."""

    kind: str
    urgency: int


def options(call: Call) -> dict[str, Any]:
    return {"base_url": f"{call.url}/v1", "api_key": call.key, "default_headers": call.headers}


def client(call: Call) -> OpenAI:
    return OpenAI(**options(call))


def text_of(answer: ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


def ask(call: Call) -> str:
    return text_of(client(call).chat.completions.create(model=CHAT_MODEL, messages=MESSAGES))


def stream(call: Call) -> str:
    chunks = client(call).chat.completions.create(
        model=CHAT_MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    return "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)


def ask_asynchronously(call: Call) -> str:
    async def asked() -> str:
        async with AsyncOpenAI(**options(call)) as sdk:
            return text_of(await sdk.chat.completions.create(model=CHAT_MODEL, messages=MESSAGES))

    return asyncio.run(asked())


def parse(call: Call) -> str:
    answer = client(call).chat.completions.parse(
        model=CHAT_MODEL, messages=MESSAGES, response_format=Ticket
    )
    ticket = answer.choices[0].message.parsed
    assert isinstance(ticket, Ticket)
    return ticket.kind


def call_tool(call: Call) -> str:
    tool: Any = {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    answer = client(call).chat.completions.create(
        model=CHAT_MODEL, messages=MESSAGES, tools=[tool], tool_choice="required"
    )
    (made,) = answer.choices[0].message.tool_calls or []
    return str(made.to_dict()["function"])


def job(call: Call) -> Told:
    sdk = client(call)
    accepted = sdk.chat.completions.create(model=CHAT_MODEL, messages=MESSAGES)
    retrieved = sdk.chat.completions.retrieve(accepted.id)
    assert isinstance(retrieved, ChatCompletion)
    return Told(accepted.id, text_of(retrieved))


def respond(call: Call) -> str:
    return client(call).responses.create(model=CHAT_MODEL, input=QUESTION).output_text


def respond_in_a_stream(call: Call) -> str:
    with client(call).responses.stream(model=CHAT_MODEL, input=QUESTION) as events:
        pieces = [one.delta for one in events if one.type == "response.output_text.delta"]
    assert "".join(pieces) == events.get_final_response().output_text
    return "".join(pieces)


def respond_later(call: Call) -> Told:
    sdk = client(call)
    accepted = answer = sdk.responses.create(model=CHAT_MODEL, input=QUESTION)
    while answer.status in {"queued", "in_progress"}:
        answer = sdk.responses.retrieve(accepted.id)
    return Told(accepted.id, answer.output_text)


def embed(call: Call) -> str:
    answer = client(call).embeddings.create(model=EMBEDDER, input=QUESTION)
    return str(answer.data[0].embedding)


def embed_as_a_job(call: Call) -> str:
    sdk = client(call)
    try:
        sdk.embeddings.create(model=EMBEDDER, input=QUESTION)
    except BadRequestError as exc:
        job_id = exc.response.headers["x-deferrable-job"]
        later = sdk.get(f"/embeddings/{job_id}", cast_to=CreateEmbeddingResponse)
        assert len(later.data) == 1
        raise
    return "nothing was raised"


def tag_by_environment(call: Call) -> str:
    os.environ["OPENAI_CUSTOM_HEADERS"] = f"X-Deferrable: {call.mode}"
    try:
        sdk = OpenAI(base_url=f"{call.url}/v1", api_key=call.key)
        assert CHAT_MODEL in {model.id for model in sdk.models.list()}
        file = sdk.files.create(file=("a.jsonl", b"{}\n"), purpose="batch")
        assert sdk.files.content(file.id).content == b"{}\n"
        return text_of(sdk.chat.completions.create(model=CHAT_MODEL, messages=MESSAGES))
    finally:
        del os.environ["OPENAI_CUSTOM_HEADERS"]


if __name__ == "__main__":
    play(
        {
            **usual(ask, stream),
            "job": job,
            "wait, asynchronous": ask_asynchronously,
            "wait, typed output": parse,
            "wait, tool call": call_tool,
            "wait, Responses": respond,
            "wait, Responses streamed": respond_in_a_stream,
            "wait, embeddings": embed,
            "job, Responses": respond_later,
            "job, refused for a stream": stream,
            "job, raised for embeddings": embed_as_a_job,
            "background, fetched": respond_later,
            "wait, tag by environment": tag_by_environment,
        },
        "openai",
    )
