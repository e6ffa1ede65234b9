"""LangChain's `ChatAnthropic`."""

import asyncio

from langchain_anthropic import ChatAnthropic

from tests.callers.drivers.stage import CLAUDE_MODEL, QUESTION, Call, play, usual


def model(call: Call) -> ChatAnthropic:
    return ChatAnthropic(
        model=CLAUDE_MODEL,
        base_url=call.url,
        api_key=call.key,
        default_headers=call.headers,
        max_tokens=500,
    )


def ask(call: Call) -> str:
    return str(model(call).invoke(QUESTION).text)


def stream(call: Call) -> str:
    return "".join(str(chunk.text) for chunk in model(call).stream(QUESTION))


def ask_asynchronously(call: Call) -> str:
    return str(asyncio.run(model(call).ainvoke(QUESTION)).text)


if __name__ == "__main__":
    play(
        {**usual(ask, stream), "wait, asynchronous": ask_asynchronously},
        "langchain-anthropic",
        "anthropic",
    )
