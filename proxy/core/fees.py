"""What is paid for beside text tokens: searches, runs of code, images, work in between.

Their prices stand in no list, and some depend on what else was bought that day. So an answer
that has any gets no price (`core/usage.py`): that of its tokens alone would be too low.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

_ITEMS: Final = frozenset(
    {
        # OpenAI (API description, `OutputItem`), and xAI after it.
        *("web_search_call", "file_search_call", "code_interpreter_call"),
        *("image_generation_call", "shell_call"),
        *("search_results", "fetch_url_results"),  # Perplexity
    }
)
"""Items of a Response that a tool of its provider made."""


def fees_in(body: Mapping[str, object]) -> int:
    """Return how many things of an answer are paid for beside its tokens."""
    return (
        sum(item.get("type") in _ITEMS for item in _objects(body, "output"))
        + sum(map(_of_chat, _objects(body, "choices")))
        + sum(map(_of_gemini, _objects(body, "candidates")))
        + sum("b64_json" in one or "url" in one for one in _objects(body, "data"))
        + _of_messages(body.get("usage"))
    )


def _of_messages(usage: object) -> int:
    """Count what Anthropic did on the way to a message, with tokens that are in no other count.

    It summed up a long context, or asked another model (SDK 2.14, `BetaIterationsUsage`).
    """
    if not isinstance(usage, dict):
        return 0
    return sum(1 for one in _objects(usage, "iterations") if one.get("type") != "message")


def _of_chat(choice: Mapping[str, Any]) -> int:
    """Count what search models of OpenAI cite, and the tools that Groq ran by itself."""
    message = choice.get("message")
    if not isinstance(message, dict):
        return 0
    cited = (one for one in _objects(message, "annotations") if one.get("type") == "url_citation")
    return sum(1 for _ in (*cited, *_objects(message, "executed_tools")))


def _of_gemini(candidate: Mapping[str, Any]) -> int:
    """Count queries of Google Search, of which the empty ones are free, and places of its Maps."""
    grounding = candidate.get("groundingMetadata")
    if not isinstance(grounding, dict):
        return 0
    queries = grounding.get("webSearchQueries")
    asked = sum(map(bool, queries)) if isinstance(queries, list) else 0
    return asked + sum("maps" in chunk for chunk in _objects(grounding, "groundingChunks"))


def _objects(place: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
    values = place.get(name)
    if isinstance(values, list):
        yield from (one for one in values if isinstance(one, dict))
