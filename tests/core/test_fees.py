"""What an answer has that costs more than its tokens, in the shapes of each API."""

import pytest

from proxy.core.fees import fees_in
from proxy.core.usage import Tokens, tokens_of, usage_of


def chat(**message: object) -> dict[str, object]:
    usage = {"prompt_tokens": 12, "completion_tokens": 3}
    return {"choices": [{"message": {"content": "x", **message}}], "usage": usage}


def response(*items: object) -> dict[str, object]:
    return {"output": list(items), "usage": {"input_tokens": 12, "output_tokens": 3}}


def gemini(**grounding: object) -> dict[str, object]:
    usage = {"promptTokenCount": 12, "candidatesTokenCount": 3}
    return {"candidates": [{"groundingMetadata": grounding}], "usageMetadata": usage}


def messages(*kinds: str) -> dict[str, object]:
    iterations = [{"type": kind, "input_tokens": 180_000} for kind in kinds]
    usage = {"input_tokens": 12, "output_tokens": 3, "cache_read_input_tokens": 0}
    return {"usage": {**usage, "iterations": iterations}}


@pytest.mark.parametrize(
    "body",
    [
        messages("compaction", "message"),
        messages("message", "advisor_message"),
        response({"type": "web_search_call"}, {"type": "message"}),
        response({"type": "message"}, {"type": "file_search_call"}),
        response({"type": "code_interpreter_call", "container_id": "cntr_1"}),
        response({"type": "image_generation_call"}),
        response({"type": "search_results", "results": []}),
        chat(annotations=[{"type": "url_citation"}]),
        chat(executed_tools=[{"index": 0, "type": "search"}]),
        {"data": [{"b64_json": "aGk="}], "usage": {"input_tokens": 12, "output_tokens": 272}},
        {"data": [{"url": "https://a.example"}], "usage": {"input_tokens": 12}},
        gemini(webSearchQueries=["", "the moon"]),
        gemini(groundingChunks=[{"maps": {"placeId": "places/1"}}]),
    ],
)
def test_an_answer_with_work_of_a_tool_that_has_a_fee_has_no_known_price(
    body: dict[str, object],
) -> None:
    assert fees_in(body) == 1
    assert tokens_of(usage_of(body)) is None


@pytest.mark.parametrize(
    "body",
    [
        messages("message", "message"),
        response({"type": "message"}, {"type": "function_call"}, {"type": "reasoning"}),
        response({"type": "mcp_call"}, "web_search_call", None),
        chat(annotations=[{"type": "file_path"}], executed_tools=[]),
        chat(annotations=None, executed_tools=None, tool_calls=[{"type": "function"}]),
        gemini(webSearchQueries=[""], groundingChunks=[{"web": {"uri": "https://a.example"}}]),
        {**response(), "output": "text", "choices": {}, "candidates": [None, {}]},
        {**chat(), "choices": [None, {"message": "x"}, {}]},
    ],
)
def test_an_answer_that_its_tokens_pay_for_is_priced_by_them(body: dict[str, object]) -> None:
    assert fees_in(body) == 0
    assert tokens_of(usage_of(body)) == Tokens(input=12, output=3)
