"""Token counts, as results report them."""

import pytest

from proxy.core.usage import Tokens, tier_of, tokens_of, usage_of


def test_nested_counts_stand_under_dotted_names() -> None:
    body = {
        "usage": {
            "prompt_tokens": 12,
            "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 8, "kind": "text"},
        }
    }

    assert usage_of(body) == {
        "prompt_tokens": 12,
        "total_tokens": 15,
        "prompt_tokens_details.cached_tokens": 8,
    }


@pytest.mark.parametrize("body", [{}, {"usage": None}, {"usage": "12"}, {"usage": [1]}])
def test_unknown_usage_is_nothing_and_never_zero(body: dict[str, object]) -> None:
    assert usage_of(body) is None


@pytest.mark.parametrize("value", [True, False, 1.5, "7", None, [1], {"x": True}, -1, 10**30])
def test_only_whole_numbers_are_counts(value: object) -> None:
    assert usage_of({"usage": {"tokens": value, "real": 0}}) == {"real": 0}


def priced(**usage: object) -> Tokens | None:
    return tokens_of(usage_of({"usage": usage}))


def test_a_body_of_gemini_has_its_counts_under_another_name() -> None:
    body = {
        "usageMetadata": {
            "promptTokenCount": 100,
            "candidatesTokenCount": 20,
            "thoughtsTokenCount": 30,
            "cachedContentTokenCount": 60,
            "toolUsePromptTokenCount": 5,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 100}],
        }
    }

    assert usage_of(body) == {
        "promptTokenCount": 100,
        "candidatesTokenCount": 20,
        "thoughtsTokenCount": 30,
        "cachedContentTokenCount": 60,
        "toolUsePromptTokenCount": 5,
        "promptTokensDetails.TEXT": 100,
    }
    assert tokens_of(usage_of(body)) == Tokens(input=105, output=50, cached=60)


def test_a_chat_counts_cached_tokens_within_the_prompt() -> None:
    tokens = priced(
        prompt_tokens=100, completion_tokens=7, prompt_tokens_details={"cached_tokens": 64}
    )

    assert tokens == Tokens(input=100, output=7, cached=64)
    assert tokens.plain == 36


@pytest.mark.parametrize(
    "cached",
    [
        {"num_cached_tokens": 8},
        {"prompt_token_details": {"cached_tokens": 8}},
        {"prompt_tokens_details": None, "prompt_token_details": None, "num_cached_tokens": 8},
        {"prompt_tokens_details": {"cached_tokens": 8}, "num_cached_tokens": 0},
    ],
)
def test_a_chat_of_mistral_counts_cached_tokens_by_any_of_three_names(
    cached: dict[str, object],
) -> None:
    usage = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15, **cached}

    assert tokens_of(usage_of({"usage": usage})) == Tokens(input=12, output=3, cached=8)


@pytest.mark.parametrize(
    "cached",
    [
        {"cached_tokens": 8},
        {"prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 4},
        {"cached_prompt_text_tokens": 8},
        {"cache_read_input_tokens": 8},
        # A gateway fills with zeros what it knows of OpenAI's shape.
        {"prompt_tokens_details": {"cached_tokens": 0}, "cached_tokens": 8},
    ],
)
def test_a_chat_of_others_counts_cached_tokens_by_names_of_its_own(
    cached: dict[str, object],
) -> None:
    assert priced(prompt_tokens=12, completion_tokens=3, **cached) == Tokens(12, 3, cached=8)


@pytest.mark.parametrize(
    "written",
    [
        {"prompt_tokens_details": {"cache_write_tokens": 8}},
        {"prompt_tokens_details": {"cache_creation_tokens": 8}, "cache_creation_input_tokens": 8},
        {
            "prompt_tokens_details": {
                "cache_type": "ephemeral",
                "cache_creation": {"ephemeral_5m_input_tokens": 8},
                "cache_creation_input_tokens": 8,
            }
        },
    ],
)
def test_a_chat_counts_what_it_wrote_to_a_cache_within_the_prompt(
    written: dict[str, object],
) -> None:
    assert priced(prompt_tokens=12, completion_tokens=3, **written) == Tokens(12, 3, cache_write=8)


def test_messages_count_what_a_cache_had_a_part_in_apart() -> None:
    tokens = priced(
        input_tokens=10,
        output_tokens=7,
        cache_read_input_tokens=2048,
        cache_creation_input_tokens=300,
        cache_creation={"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
        service_tier="batch",
    )

    assert tokens == Tokens(input=2358, output=7, cached=2048, cache_write=100, cache_write_1h=200)
    assert tokens.plain == 10


def test_a_response_counts_cached_tokens_within_its_input() -> None:
    tokens = priced(input_tokens=100, output_tokens=7, input_tokens_details={"cached_tokens": 64})

    assert tokens == Tokens(input=100, output=7, cached=64)


def test_a_response_of_perplexity_counts_cached_tokens_by_another_name() -> None:
    tokens = priced(
        input_tokens=100, output_tokens=7, input_tokens_details={"cache_read_input_tokens": 64}
    )

    assert tokens == Tokens(input=100, output=7, cached=64)


def test_an_embedding_has_no_output() -> None:
    assert priced(prompt_tokens=9, total_tokens=9) == Tokens(input=9, output=0)


@pytest.mark.parametrize("count", [7, "7"])
def test_an_embedding_of_a_batch_of_gemini_says_its_count_itself(count: object) -> None:
    usage = usage_of({"embedding": {"values": [0.5]}, "tokenCount": count})

    assert usage == {"tokenCount": 7}
    assert tokens_of(usage) == Tokens(input=7, output=0)


@pytest.mark.parametrize("count", [None, True, -1, "", "-1", "x", 0.5, "9" * 5_000, 10**30])
def test_what_is_no_count_of_an_embedding_is_none(count: object) -> None:
    assert usage_of({"embedding": {}, "tokenCount": count}) is None
    assert usage_of({"tokenCount": 7}) is None


@pytest.mark.parametrize(
    ("prompt", "generated"),
    [("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens")],
)
def test_what_was_generated_follows_from_the_total_where_it_is_not_said(
    prompt: str, generated: str
) -> None:
    counts = {prompt: 9, generated: None, "total_tokens": 50}

    assert priced(**counts) == Tokens(input=9, output=41)


@pytest.mark.parametrize(("total", "output"), [(60, 50), (30, 20), (None, 20)])
def test_thinking_is_added_only_where_the_total_says_that_it_stands_beside(
    total: int | None, output: int
) -> None:
    usage: dict[str, object] = {
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "completion_tokens_details": {"reasoning_tokens": 30},
    }
    if total is not None:
        usage["total_tokens"] = total

    assert priced(**usage) == Tokens(input=10, output=output)


def test_thinking_that_only_the_total_tells_of_is_priced_as_what_was_generated() -> None:
    """As Gemini's chat completions count it."""
    assert priced(prompt_tokens=20, completion_tokens=198, total_tokens=623) == Tokens(20, 603)


@pytest.mark.parametrize(
    "details",
    [
        {"prompt_tokens_details": {"audio_tokens": 5}},
        {"completion_tokens_details": {"audio_tokens": 5}},
    ],
)
def test_sound_is_not_priced_as_text(details: dict[str, object]) -> None:
    assert priced(prompt_tokens=9, completion_tokens=9, **details) is None


@pytest.mark.parametrize(("seconds", "is_text"), [(7, False), (0, True), (None, True)])
def test_sound_that_mistral_counts_by_seconds_is_not_priced_as_text(
    seconds: int | None, is_text: bool
) -> None:
    usage = {"prompt_tokens": 12, "completion_tokens": 3, "prompt_audio_seconds": seconds}

    assert (tokens_of(usage_of({"usage": usage})) is not None) is is_text


def test_citations_are_not_priced_as_what_was_generated() -> None:
    assert priced(prompt_tokens=12, completion_tokens=3, citation_tokens=20_016) is None


def test_an_answer_that_searched_the_web_for_a_fee_has_no_known_price():
    searched = {"web_search_requests": 2, "web_fetch_requests": 0}
    fetched = {"web_search_requests": 0, "web_fetch_requests": 2}
    usage = {"input_tokens": 12, "output_tokens": 3, "cache_read_input_tokens": 0}

    assert priced(**usage, server_tool_use=searched) is None
    # A fetch costs its tokens alone.
    assert priced(**usage, server_tool_use=fetched) == Tokens(input=12, output=3)


@pytest.mark.parametrize(
    "counted",
    [
        {"num_sources_used": 4},
        {"num_server_side_tools_used": 7},
        {"num_search_queries": 30},
        {"search_context_size": "low"},
    ],
)
def test_an_answer_of_others_that_searched_for_a_fee_has_no_known_price(
    counted: dict[str, object],
) -> None:
    assert priced(prompt_tokens=12, completion_tokens=3, **counted) is None


@pytest.mark.parametrize(
    ("words", "tokens"),
    [
        ({"inference_geo": "global", "speed": "standard"}, Tokens(12, 3)),
        ({"inference_geo": "not_available", "speed": None}, Tokens(12, 3)),
        ({"inference_geo": "us"}, Tokens(12, 3, surcharge=10)),
        ({"inference_geo": "moon"}, None),
        ({"inference_geo": "us", "speed": "fast"}, None),
        ({"speed": "ludicrous"}, None),
    ],
)
def test_a_word_among_the_counts_makes_an_answer_dearer_or_its_price_unknown(
    words: dict[str, object], tokens: Tokens | None
) -> None:
    usage = {"input_tokens": 12, "output_tokens": 3, "cache_read_input_tokens": 0}

    assert priced(**usage, **words) == tokens


def test_sound_that_a_tool_of_gemini_brought_is_not_priced_as_text() -> None:
    metadata = {
        "promptTokenCount": 9,
        "toolUsePromptTokenCount": 50,
        "toolUsePromptTokensDetails": [{"modality": "AUDIO", "tokenCount": 50}],
    }

    assert tokens_of(usage_of({"usageMetadata": metadata})) is None


def test_a_picture_of_gemini_is_not_priced_as_text() -> None:
    metadata = {
        "promptTokenCount": 9,
        "candidatesTokenCount": 1290,
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}],
    }

    assert tokens_of(usage_of({"usageMetadata": metadata})) is None


@pytest.mark.parametrize("counts", [None, {}, {"total_tokens": 9}, {"seconds": 3}])
def test_counts_without_a_prompt_are_unknown(counts: dict[str, int] | None) -> None:
    assert tokens_of(counts) is None


def test_more_cached_tokens_than_there_are_never_make_a_prompt_negative() -> None:
    tokens = priced(prompt_tokens=5, prompt_tokens_details={"cached_tokens": 9})

    assert tokens == Tokens(input=5, output=0, cached=5)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("cache_read_input_tokens", "cached"), ("cache_creation_input_tokens", "cache_write")],
)
def test_a_message_may_name_one_part_of_a_cache_alone(name: str, kind: str) -> None:
    tokens = priced(**{"input_tokens": 2, "output_tokens": 1, name: 90})

    assert tokens == Tokens(input=92, output=1, **{kind: 90})


@pytest.mark.parametrize("prompt", ["prompt_tokens", "input_tokens"])
def test_what_was_read_from_a_cache_was_not_written_to_it(prompt: str) -> None:
    details = {"cached_tokens": 4, "cache_write_tokens": 9}

    tokens = priced(**{prompt: 5, f"{prompt}_details": details})

    assert tokens == Tokens(input=5, output=0, cached=4, cache_write=1)


@pytest.mark.parametrize(
    ("body", "tier"),
    [
        ({"service_tier": "flex"}, "flex"),
        ({"usage": {"service_tier": "batch"}}, "batch"),
        ({"usageMetadata": {"serviceTier": "priority"}}, "priority"),
        ({"service_tier": None, "usage": None}, None),
        ({"service_tier": "x" * 99}, "x" * 32),
        ({}, None),
    ],
)
def test_the_tier_is_what_the_answer_says_of_itself(
    body: dict[str, object], tier: str | None
) -> None:
    assert tier_of(body) == tier
