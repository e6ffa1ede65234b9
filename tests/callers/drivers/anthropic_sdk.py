"""The stock `anthropic` SDK."""

import asyncio
import os
from typing import Any

from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import Message

from tests.callers.drivers.stage import CLAUDE_MODEL, MESSAGES, Call, Told, play, usual

ASKED: Any = {"model": CLAUDE_MODEL, "max_tokens": 500, "messages": MESSAGES}


def options(call: Call) -> dict[str, Any]:
    return {"base_url": call.url, "api_key": call.key, "default_headers": call.headers}


def client(call: Call) -> Anthropic:
    return Anthropic(**options(call))


def text_of(message: Message) -> str:
    (block,) = message.content
    assert block.type == "text"
    return block.text


def ask(call: Call) -> str:
    return text_of(client(call).messages.create(**ASKED))


def stream(call: Call) -> str:
    with client(call).messages.stream(**ASKED) as events:
        text = "".join(events.text_stream)
        assert text == text_of(events.get_final_message())
        return text


def ask_asynchronously(call: Call) -> str:
    async def asked() -> str:
        async with AsyncAnthropic(**options(call)) as sdk:
            return text_of(await sdk.messages.create(**ASKED))

    return asyncio.run(asked())


def call_tool(call: Call) -> str:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool: Any = {"name": "weather", "input_schema": schema}
    message = client(call).messages.create(**ASKED, tools=[tool], tool_choice={"type": "any"})
    (block,) = message.content
    assert block.type == "tool_use"
    return str(block.input)


def ask_for_much(call: Call) -> str:
    return text_of(client(call).messages.create(**{**ASKED, "max_tokens": 64_000}))


def job(call: Call) -> Told:
    sdk = client(call)
    accepted = sdk.messages.create(**ASKED)
    retrieved = sdk.get(f"/v1/messages/{accepted.id}", cast_to=Message)
    assert isinstance(retrieved, Message)
    return Told(accepted.id, text_of(retrieved))


def tag_by_environment(call: Call) -> str:
    os.environ["ANTHROPIC_CUSTOM_HEADERS"] = f"X-Deferrable: {call.mode}"
    try:
        sdk = Anthropic(base_url=call.url, api_key=call.key)
        assert CLAUDE_MODEL in {model.id for model in sdk.models.list()}
        counted = sdk.messages.count_tokens(model=CLAUDE_MODEL, messages=MESSAGES)
        message = sdk.messages.create(**ASKED)
        assert counted.input_tokens == message.usage.input_tokens
        return text_of(message)
    finally:
        del os.environ["ANTHROPIC_CUSTOM_HEADERS"]


if __name__ == "__main__":
    play(
        {
            **usual(ask, stream),
            "job": job,
            "wait, asynchronous": ask_asynchronously,
            "wait, tool call": call_tool,
            "job, refused for a stream": stream,
            "wait, tag by environment": tag_by_environment,
            "wait, unsent with many tokens and no timeout": ask_for_much,
        },
        "anthropic",
    )
