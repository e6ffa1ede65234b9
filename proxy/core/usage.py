"""How many tokens an answer took, whatever its provider calls them.

Two views of the same counts: `usage_of` keeps the provider's own names, for callers;
`Tokens` says what is to be priced. A count that a provider did not give is unknown,
and what is unknown is never taken for zero.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from proxy.core.fees import fees_in

_MEMBERS: Final = ("usage", "usageMetadata")
"""Where bodies have it: all providers but one, and Gemini."""

_EMBEDDED: Final = "tokenCount"

_MOST: Final = 10**9
"""A thousand times the longest context: a larger number cannot be the count of one answer, and
would spoil every sum."""

_APART: Final = "priced.apart"
"""How many things an answer has that the prices of tokens do not cover. Not a provider's name."""

_US: Final = "inference_geo.us"

_WORDS: Final[Mapping[str, Mapping[str, str | None]]] = {
    # Anthropic: in the United States alone at 1.1 times every price ("Data residency", 2026-11).
    "inference_geo": {"global": None, "not_available": None, "us": _US},
    "speed": {"standard": None},  # Anthropic, whose fast mode has prices of its own
    "search_context_size": {},  # Perplexity, which takes a fee for each call
}
"""Words among the counts that change the price: each word that may stand there, and the name under
which it is counted. Any other word makes an answer unpriced."""


def usage_of(body: Mapping[str, object]) -> Mapping[str, int] | None:
    """Return the token counts of a result, nested ones under dotted names.

    Nothing if the body has none: unknown is never zero.
    """
    # It is parsed JSON, and asking for `dict` takes a fraction of asking for any `Mapping`.
    for member in _MEMBERS:
        if isinstance(usage := body.get(member), dict):
            counts = _counts(usage)
            if fees := fees_in(body):
                counts[_APART] = counts.get(_APART, 0) + fees
            return counts
    return _of_embedding(body)


def _of_embedding(body: Mapping[str, object]) -> Mapping[str, int] | None:
    """Return the count that stands beside an embedding in Gemini's batches.

    Source: google-genai SDK 3.6, `SingleEmbedContentResponse`. An int64 is text in JSON.
    """
    count = body.get(_EMBEDDED) if "embedding" in body else None
    if isinstance(count, str) and count.isdecimal() and len(count) <= len(str(_MOST)):
        count = int(count)
    return {_EMBEDDED: count} if isinstance(count, int) and _is_count(count) else None


def _counts(usage: Mapping[str, Any]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, value in usage.items():
        if _is_count(value):
            counts[str(name)] = value
        elif isinstance(value, dict):
            counts |= {f"{name}.{key}": count for key, count in value.items() if _is_count(count)}
        elif isinstance(value, list):
            counts |= _by_modality(str(name), value)
        elif isinstance(value, str) and name in _WORDS:
            counted = _WORDS[name].get(value, _APART)
            counts |= {} if counted is None else {counted: 1}
    return counts


def tier_of(body: Mapping[str, object]) -> str | None:
    """Return the service tier that the provider says it used, if it says so."""
    tier = body.get("service_tier")
    for member, name in _TIERS:
        if not isinstance(tier, str) and isinstance(usage := body.get(member), dict):
            tier = usage.get(name)
    return tier[:32] if isinstance(tier, str) else None


_TIERS: Final = (("usage", "service_tier"), ("usageMetadata", "serviceTier"))
"""Where Anthropic and Gemini have it."""


class Tokens(NamedTuple):
    """What is to be priced of one answer."""

    input: int
    """All of the prompt, cached and newly cached parts included."""

    output: int
    """All that was generated, thinking included."""

    cached: int = 0
    """Prompt tokens read from a cache."""

    cache_write: int = 0
    """Prompt tokens written to a cache for minutes."""

    cache_write_1h: int = 0
    """Prompt tokens written to a cache for an hour."""

    surcharge: int = 0
    """In percent, on the price of each token."""

    @property
    def plain(self) -> int:
        """Prompt tokens neither read from a cache nor written to one."""
        return max(0, self.input - self.cached - self.cache_write - self.cache_write_1h)


def tokens_of(counts: Mapping[str, int] | None) -> Tokens | None:
    """Return what is to be priced of the counts that `usage_of` returned.

    Nothing if they are not those of a text, or not all that is paid for: sound, pictures and
    searches have prices of their own, and to leave these out would be a guess.
    """
    if counts is None:
        return None
    if not _NOT_BY_TOKENS.isdisjoint(counts) and any(map(counts.get, _NOT_BY_TOKENS)):
        return None
    tokens = _tokens(counts)
    if tokens is not None and _US in counts:
        return tokens._replace(surcharge=10)
    return tokens


def _tokens(counts: Mapping[str, int]) -> Tokens | None:
    if "promptTokenCount" in counts:
        return _of_gemini(counts)
    if "input_tokens" in counts:
        return _of_messages(counts) if _is_messages(counts) else _of_responses(counts)
    if "prompt_tokens" in counts:
        return _of_chat(counts)
    if _EMBEDDED in counts:
        return Tokens(input=counts[_EMBEDDED], output=0)
    return None


# What these count is priced apart, wherever it occurs.
_NOT_BY_TOKENS: Final = frozenset(
    {
        _APART,
        "prompt_audio_seconds",  # Mistral
        "citation_tokens",  # Perplexity, whose deep research has thinking at a price of its own too
        # Each for a fee: searches of Anthropic, those of Perplexity's deep research, sources and
        # tools of xAI.
        *("server_tool_use.web_search_requests", "num_search_queries"),
        *("num_sources_used", "num_server_side_tools_used"),
        "prompt_tokens_details.audio_tokens",
        "completion_tokens_details.audio_tokens",
        "input_tokens_details.audio_tokens",
        "output_tokens_details.audio_tokens",
        "input_tokens_details.image_tokens",
        "output_tokens_details.image_tokens",
        "promptTokensDetails.AUDIO",
        "promptTokensDetails.VIDEO",
        "toolUsePromptTokensDetails.AUDIO",
        "toolUsePromptTokensDetails.VIDEO",
        "candidatesTokensDetails.AUDIO",
        "candidatesTokensDetails.IMAGE",
    }
)


_CACHED_OF_CHAT: Final = (
    "prompt_tokens_details.cached_tokens",
    # Mistral (API description, `UsageInfo`): any of these two, or that above.
    "prompt_token_details.cached_tokens",
    "num_cached_tokens",
    "prompt_cache_hit_tokens",  # DeepSeek
    "cached_tokens",  # Moonshot, Together, and Anthropic's chat completions
    "cached_prompt_text_tokens",  # xAI
    "cache_read_input_tokens",  # Databricks, and LiteLLM for whatever is behind it
)
_WRITTEN_OF_CHAT: Final = (
    "prompt_tokens_details.cache_write_tokens",
    # LiteLLM for Anthropic; Alibaba's Qwen has the second beside the cached ones.
    "cache_creation_input_tokens",
    "prompt_tokens_details.cache_creation_input_tokens",
    "prompt_tokens_details.cache_creation_tokens",
)
_CACHED_OF_RESPONSES: Final = (
    "input_tokens_details.cached_tokens",
    "input_tokens_details.cache_read_input_tokens",  # Perplexity
)
"""The places of one count. Answers with several say the same in each, except that gateways fill in
zeros for what their upstream does not know: so the largest counts."""


def _any_of(counts: Mapping[str, int], names: tuple[str, ...]) -> int:
    return max(counts.get(name, 0) for name in names)


def _of_chat(counts: Mapping[str, int]) -> Tokens:
    """Chat completions, legacy completions and embeddings, of OpenAI and its clones."""
    prompt = counts["prompt_tokens"]
    completion = _generated(counts, "completion_tokens", prompt)
    # Most providers count thinking within the completion; xAI and Gemini count it beside it, the
    # latter without showing it, so that only the total tells.
    completion = max(completion, counts.get("total_tokens", 0) - prompt)
    cached = _any_of(counts, _CACHED_OF_CHAT)
    written = _any_of(counts, _WRITTEN_OF_CHAT)
    return Tokens(
        input=prompt,
        output=completion,
        cached=min(cached, prompt),
        cache_write=min(written, max(0, prompt - cached)),
    )


def _of_responses(counts: Mapping[str, int]) -> Tokens:
    prompt = counts["input_tokens"]
    cached = _any_of(counts, _CACHED_OF_RESPONSES)
    written = counts.get("input_tokens_details.cache_write_tokens", 0)
    return Tokens(
        input=prompt,
        output=_generated(counts, "output_tokens", prompt),
        cached=min(cached, prompt),
        cache_write=min(written, max(0, prompt - cached)),
    )


def _generated(counts: Mapping[str, int], name: str, prompt: int) -> int:
    # Embeddings have none, and their total is that of the prompt. An answer without this count
    # may still say how many there are in all.
    known = counts.get(name)
    return max(0, counts.get("total_tokens", prompt) - prompt) if known is None else known


def _is_messages(counts: Mapping[str, int]) -> bool:
    return "cache_read_input_tokens" in counts or "cache_creation_input_tokens" in counts


def _of_messages(counts: Mapping[str, int]) -> Tokens:
    """Anthropic's Messages, whose `input_tokens` is what no cache had a part in."""
    cached = counts.get("cache_read_input_tokens", 0)
    written = counts.get("cache_creation_input_tokens", 0)
    hourly = min(counts.get("cache_creation.ephemeral_1h_input_tokens", 0), written)
    return Tokens(
        input=counts["input_tokens"] + cached + written,
        output=counts.get("output_tokens", 0),
        cached=cached,
        cache_write=written - hourly,
        cache_write_1h=hourly,
    )


def _of_gemini(counts: Mapping[str, int]) -> Tokens:
    prompt = counts["promptTokenCount"]
    return Tokens(
        input=prompt + counts.get("toolUsePromptTokenCount", 0),
        # Thinking is counted beside the candidates, and billed as output.
        output=counts.get("candidatesTokenCount", 0) + counts.get("thoughtsTokenCount", 0),
        cached=min(counts.get("cachedContentTokenCount", 0), prompt),
    )


def _by_modality(name: str, details: list[object]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for detail in details:
        if isinstance(detail, Mapping) and _is_count(detail.get("tokenCount")):
            counts[f"{name}.{detail.get('modality')}"] = detail["tokenCount"]
    return counts


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MOST
