"""Which calls should be neighbours in a batch: those whose prompts begin alike.

A prompt cache keeps beginnings for some minutes, and a batch is worked through about in
its order. So lines are ordered by what their prompts begin with, in the order in which
providers read them: tools, system prompt, then message after message. Only the order of
the lines is chosen; what callers say about caching is never touched.
"""

import json
from collections.abc import Mapping
from typing import Final
from zlib import crc32

from proxy.core.dialects import Shape

LEVELS: Final = 4
"""How many steps of the beginning are told apart: tools and system prompt, then messages."""

DIGITS: Final = 4
"""Hexadecimal digits for each: some of 50,000 beginnings look alike, which only costs them the best
place."""

CHARS: Final = 4096
"""The length of a step: about 1,024 tokens, the least that caches keep (OpenAI, "Prompt
caching")."""


def affinity(fields: Mapping[str, object], shape: Shape) -> str:
    """Return a text that begins alike for calls whose prompts do.

    Sorted by it, calls stand the closer, the more of their beginning they share. Empty
    where there is no prompt cache.
    """
    seen = 0
    levels = ""
    for step in _steps(fields, shape)[:LEVELS]:
        # Surrogates without a partner are legal in JSON and no UTF-8.
        seen = crc32(step.encode("utf-8", "surrogatepass") + b"\0", seen)
        levels += f"{seen:08x}"[:DIGITS]
    return levels


def _steps(fields: Mapping[str, object], shape: Shape) -> list[str]:
    """Return the beginning of the prompt, step by step; perhaps more of it than needed."""
    match shape:
        case Shape.CHAT:
            return _conversation(_tools(fields), "", fields.get("messages"))
        case Shape.MESSAGES:
            system = _text(fields.get("system"))
            return _conversation(_tools(fields), system, fields.get("messages"))
        case Shape.RESPONSES:
            system = _text(fields.get("instructions"))
            said = fields.get("input")
            messages = said if isinstance(said, list) else [{"content": said}]
            return _conversation(_tools(fields), system, messages)
        case Shape.GENERATE:
            # Both spellings are JSON of the same message (protocol buffers, "JSON mapping").
            instruction = fields.get("systemInstruction") or fields.get("system_instruction")
            contents = fields.get("contents")
            turns = contents if isinstance(contents, list) else [contents]
            return [_tools(fields) + _parts(instruction), *map(_parts, turns[:LEVELS])]
        case Shape.COMPLETIONS:
            return [_text(fields.get("prompt"))]
        case _:
            # The others have no prompt cache.
            return []


def _conversation(tools: str, system: str, messages: object) -> list[str]:
    """Return tools and all leading instructions as one step, then each message."""
    turns = messages if isinstance(messages, list) else []
    texts = [tools, system]
    begun = 0
    for turn in turns:
        if not (isinstance(turn, dict) and turn.get("role") in {"system", "developer"}):
            break
        texts.append(_content(turn))
        begun += 1
    return ["\n".join(texts), *map(_content, turns[begun : begun + LEVELS])]


def _tools(fields: Mapping[str, object]) -> str:
    tools = fields.get("tools")
    return json.dumps(tools)[:CHARS] if tools else ""


def _content(turn: object) -> str:
    return _text(turn.get("content") if isinstance(turn, dict) else turn)


def _parts(content: object) -> str:
    parts = content.get("parts") if isinstance(content, dict) else content
    return _text([parts] if isinstance(parts, dict) else parts)


def _text(content: object) -> str:
    if isinstance(content, str):
        return content[:CHARS]
    if not isinstance(content, list):
        return ""
    parts = (part.get("text") if isinstance(part, dict) else part for part in content)
    return "\n".join(part for part in parts if isinstance(part, str))[:CHARS]
