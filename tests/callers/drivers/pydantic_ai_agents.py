"""pydantic-ai's agents, over its three models that a proxy can defer."""

import asyncio
from typing import Any

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from tests.callers.drivers.stage import CHAT_MODEL, CLAUDE_MODEL, QUESTION, Call, play, usual


class Ticket(BaseModel):
    """A ticket of the support."""

    kind: str
    urgency: int


def openai(call: Call) -> OpenAIProvider:
    return OpenAIProvider(base_url=f"{call.url}/v1", api_key=call.key)


def agent(call: Call, model: Model | None = None, **more: Any) -> Any:
    model = model or OpenAIChatModel(CHAT_MODEL, provider=openai(call))
    return Agent(model, model_settings={"extra_headers": call.headers}, **more)


def ask(call: Call) -> str:
    return str(agent(call).run_sync(QUESTION).output)


def stream(call: Call) -> str:
    async def streamed() -> str:
        async with agent(call).run_stream(QUESTION) as result:
            return str(await result.get_output())

    return asyncio.run(streamed())


def parse(call: Call) -> str:
    ticket = agent(call, output_type=Ticket).run_sync(QUESTION).output
    assert isinstance(ticket, Ticket)
    return ticket.kind


def respond(call: Call) -> str:
    model = OpenAIResponsesModel(CHAT_MODEL, provider=openai(call))
    return str(agent(call, model).run_sync(QUESTION).output)


def ask_claude(call: Call) -> str:
    provider = AnthropicProvider(base_url=call.url, api_key=call.key)
    model = AnthropicModel(CLAUDE_MODEL, provider=provider)
    return str(agent(call, model).run_sync(QUESTION).output)


if __name__ == "__main__":
    play(
        {
            **usual(ask, stream),
            "wait, typed output": parse,
            "wait, Responses": respond,
            "wait, Anthropic": ask_claude,
            "background, polled": respond,
        },
        "pydantic-ai-slim",
        "openai",
        "anthropic",
    )
