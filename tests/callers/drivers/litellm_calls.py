"""litellm's functions, over the providers that it calls itself and by the `openai` SDK."""

import asyncio
import os
from typing import Any

# Or it fetches its price list from the network when it is imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

from tests.callers.drivers.stage import (
    CHAT_MODEL,
    CLAUDE_MODEL,
    MESSAGES,
    QUESTION,
    Call,
    play,
    usual,
)


def options(call: Call) -> dict[str, Any]:
    return {"api_base": f"{call.url}/v1", "api_key": call.key, "extra_headers": call.headers}


def asked(call: Call) -> dict[str, Any]:
    return {"model": f"openai/{CHAT_MODEL}", "messages": MESSAGES, **options(call)}


def text_of(answer: Any) -> str:
    return str(answer.choices[0].message.content)


def ask(call: Call) -> str:
    return text_of(litellm.completion(**asked(call)))


def stream(call: Call) -> str:
    chunks = litellm.completion(**asked(call), stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def ask_asynchronously(call: Call) -> str:
    return text_of(asyncio.run(litellm.acompletion(**asked(call))))


def respond(call: Call) -> str:
    answer: Any = litellm.responses(model=f"openai/{CHAT_MODEL}", input=QUESTION, **options(call))
    return str(answer.output[0].content[0].text)


def ask_claude(call: Call) -> str:
    # It appends /v1/messages itself.
    there = {**options(call), "api_base": call.url}
    model = f"anthropic/{CLAUDE_MODEL}"
    return text_of(litellm.completion(model=model, messages=MESSAGES, max_tokens=500, **there))


def embed(call: Call) -> str:
    model = "openai/text-embedding-3-small"
    answer = litellm.embedding(model=model, input=[QUESTION], **options(call))
    return str(answer.data[0]["embedding"])


if __name__ == "__main__":
    play(
        {
            **usual(ask, stream),
            "wait, asynchronous": ask_asynchronously,
            "wait, Responses": respond,
            "wait, Anthropic": ask_claude,
            "wait, embeddings": embed,
        },
        "litellm",
        "openai",
    )
