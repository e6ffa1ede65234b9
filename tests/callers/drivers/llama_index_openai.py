"""LlamaIndex's `OpenAI`."""

import asyncio

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai import OpenAI

from tests.callers.drivers.stage import CHAT_MODEL, QUESTION, Call, play, usual

CHAT = [ChatMessage(role="user", content=QUESTION)]


def model(call: Call) -> OpenAI:
    return OpenAI(
        model=CHAT_MODEL,
        api_base=f"{call.url}/v1",
        api_key=call.key,
        default_headers=call.headers,
    )


def ask(call: Call) -> str:
    return str(model(call).chat(CHAT).message.content)


def stream(call: Call) -> str:
    return "".join(chunk.delta or "" for chunk in model(call).stream_chat(CHAT))


def ask_asynchronously(call: Call) -> str:
    return str(asyncio.run(model(call).achat(CHAT)).message.content)


if __name__ == "__main__":
    play(
        {**usual(ask, stream), "wait, asynchronous": ask_asynchronously},
        "llama-index-llms-openai",
        "openai",
    )
