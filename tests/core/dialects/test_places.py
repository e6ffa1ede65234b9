"""What a target says of a call: endpoint, model, stream."""

import pytest

from proxy.core.dialects import DIALECTS, Place, Streaming, place_for, whole_target

OPENAI, GEMINI = DIALECTS["openai"], DIALECTS["gemini"]
GENERATE = GEMINI.endpoints[":generateContent"]
EMBED = GEMINI.endpoints[":embedContent"]
FLASH = "/v1beta/models/gemini-2.5-flash"


@pytest.mark.parametrize(
    ("target", "place"),
    [
        (f"{FLASH}:generateContent", Place(GENERATE, "gemini-2.5-flash")),
        ("/v1/models/gemini-2.5-pro:generateContent", Place(GENERATE, "gemini-2.5-pro")),
        (f"{FLASH}:generateContent?key=K&alt=json", Place(GENERATE, "gemini-2.5-flash")),
        (f"{FLASH}:embedContent", Place(EMBED, "gemini-2.5-flash")),
        (
            f"{FLASH}:streamGenerateContent?alt=sse",
            Place(GENERATE, "gemini-2.5-flash", Streaming.EVENTS),
        ),
        (
            f"{FLASH}:streamGenerateContent?alt=sser",
            Place(GENERATE, "gemini-2.5-flash", Streaming.ARRAY),
        ),
        (
            f"{FLASH}:streamGenerateContent",
            Place(GENERATE, "gemini-2.5-flash", Streaming.ARRAY),
        ),
    ],
)
def test_a_path_that_names_model_and_method_says_both(target: str, place: Place) -> None:
    assert place_for(GEMINI, target) == place


@pytest.mark.parametrize(
    "target",
    [
        f"{FLASH}:countTokens",
        f"{FLASH}:batchGenerateContent",
        FLASH,
        f"{FLASH}:generateContent/",
        f"{FLASH}:generatecontent",
        f"{FLASH}%3AgenerateContent",
        "/v1beta/models/a/b:generateContent",
        "/v1beta/models/a%2Fb:generateContent",
        "/v1beta/models/:generateContent",
        "/v1beta/tunedModels/x:generateContent",
        "/v1alpha/models/x:generateContent",
        "/models/x:generateContent",
        f"{FLASH}:generateContent\n",
    ],
)
def test_nothing_else_below_models_can_be_deferred(target: str) -> None:
    assert place_for(GEMINI, target) is None


def test_a_dialect_without_models_in_its_paths_knows_exact_paths_only() -> None:
    place = place_for(OPENAI, "/v1/embeddings?x=1")

    assert place == Place(OPENAI.endpoints["/v1/embeddings"])
    assert place_for(OPENAI, f"{FLASH}:generateContent") is None


@pytest.mark.parametrize(
    ("target", "whole"),
    [
        (f"{FLASH}:streamGenerateContent?alt=sse", f"{FLASH}:generateContent"),
        (f"{FLASH}:streamGenerateContent?a=1&alt=sse&b=2", f"{FLASH}:generateContent?a=1&b=2"),
        (f"{FLASH}:streamGenerateContent", f"{FLASH}:generateContent"),
        (f"{FLASH}:generateContent?alt=sse", f"{FLASH}:generateContent?alt=sse"),
    ],
)
def test_a_deferred_stream_is_asked_for_as_a_whole(target: str, whole: str) -> None:
    assert whole_target(GEMINI, target) == whole


def test_a_target_of_another_dialect_stays_as_it_is() -> None:
    target = "/v1/x:streamGenerateContent?alt=sse"

    assert whole_target(OPENAI, target) == target
