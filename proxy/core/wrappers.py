"""Clients that can do nothing with a job instead of an answer, by how they name themselves.

A user agent may name several products, of which the wrapper need not be the first: over
Google's SDK, LangChain and pydantic-ai stand behind it, and the AI SDK adds itself to the name
that its user gave.

Each of these wraps an API in its own types. Told of a job, it takes that for an empty
answer, or fails without naming the job and makes another one by its next attempt. Those that
call by a stock SDK without a word of their own (LangChain over OpenAI's, LlamaIndex,
instructor) cannot be told from that SDK.
"""

from typing import Final

from proxy.core.dialects import Shape

_WRAPPERS: Final = (
    b"ai/",  # AI SDK (Vercel), by its core and by its providers
    b"ai-sdk/",
    b"agents/",  # OpenAI's Agents
    b"dspy/",
    b"langchain",
    b"litellm/",
    b"mistral-client-",  # Mistral's SDKs take no status but 200, and no body but a completion
    b"pydantic-ai/",
)
_POLLS_RESPONSES: Final = b"pydantic-ai/"
"""Asks for a Response that is queued until it is there."""


def takes_no_job(user_agent: bytes | None, shape: Shape) -> bool:
    """Return whether whoever names itself so cannot be answered with a job on such an endpoint."""
    products = (user_agent or b"").lower().split()
    if shape is Shape.RESPONSES and any(one.startswith(_POLLS_RESPONSES) for one in products):
        return False
    return any(one.startswith(_WRAPPERS) for one in products)
