"""LangChain's `ChatOpenAI`."""

import asyncio
from typing import Any

from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from tests.callers.drivers.stage import CHAT_MODEL, QUESTION, Call, play, usual


class Ticket(BaseModel):
    """A ticket of the support."""

    kind: str
    urgency: int


def model(call: Call, **more: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model=CHAT_MODEL,
        base_url=f"{call.url}/v1",
        api_key=call.key,
        default_headers=call.headers,
        **more,
    )


def ask(call: Call) -> str:
    return str(model(call).invoke(QUESTION).text)


def stream(call: Call) -> str:
    return "".join(str(chunk.text) for chunk in model(call).stream(QUESTION))


def ask_asynchronously(call: Call) -> str:
    return str(asyncio.run(model(call).ainvoke(QUESTION)).text)


def parse(call: Call) -> str:
    ticket = model(call).with_structured_output(Ticket).invoke(QUESTION)
    assert isinstance(ticket, Ticket)
    return ticket.kind


def respond(call: Call) -> str:
    return str(model(call, use_responses_api=True).invoke(QUESTION).text)


if __name__ == "__main__":
    play(
        {
            **usual(ask, stream),
            "wait, asynchronous": ask_asynchronously,
            "wait, typed output": parse,
            "wait, Responses": respond,
        },
        "langchain-openai",
        "openai",
    )
