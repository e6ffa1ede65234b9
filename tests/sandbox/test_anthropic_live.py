"""The Messages API at once: answers, streams, refusals, and both dialects on one port."""

import pytest
from anthropic.types import Message, TextBlock, ThinkingBlock, ToolUseBlock
from pydantic import BaseModel

from proxy.sandbox import HttpFault, ModelSpec, answer_text, body_hash
from tests.sandbox.anthropic_rigs import message_body, raw
from tests.sandbox.rigs import started

TOOL = {
    "name": "weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


async def test_the_answer_is_a_function_of_the_question_and_is_billed(rig, claude):
    body = message_body("why?")

    message = await claude.messages.create(**body)

    assert isinstance(message.content[0], TextBlock)
    assert message.content[0].text == answer_text(body_hash(body), "why?")
    assert (message.stop_reason, message.usage.service_tier) == ("end_turn", "standard")
    (entry,) = rig.running.ledger.entries()
    assert (entry.endpoint, entry.lane) == ("/v1/messages", "interactive")
    assert entry.input_tokens == message.usage.input_tokens
    assert entry.output_tokens == message.usage.output_tokens > 0
    assert entry.paid_micro_usd == entry.list_micro_usd > 0


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "weather"}},
        {"tools": [TOOL], "tool_choice": {"type": "any"}},
        {"thinking": {"type": "enabled", "budget_tokens": 1_024}},
        {"max_tokens": 3},
    ],
)
async def test_a_stream_accumulates_to_the_answer(rig, claude, more):
    body = message_body("weather?", **more)
    whole: Message = await claude.messages.create(**body)

    async with claude.messages.stream(**body) as stream:
        streamed = await stream.get_final_message()

    same = {"id": "", "usage": None}
    assert {**streamed.to_dict(), **same} == {**whole.to_dict(), **same}
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    assert rig.running.ledger.totals(lane="interactive").executions == 2


async def test_a_forced_tool_is_called_with_input_that_fits_its_schema(rig, claude):
    message = await claude.messages.create(
        **message_body(tools=[TOOL], tool_choice={"type": "tool", "name": "weather"})
    )

    assert message.stop_reason == "tool_use"
    (call,) = message.content
    assert isinstance(call, ToolUseBlock)
    assert call.name == "weather"
    assert isinstance(call.input["city"], str)


async def test_thoughts_come_first_when_they_are_asked_for(rig, claude):
    body = message_body(thinking={"type": "enabled", "budget_tokens": 1_024})

    message = await claude.messages.create(**body)

    thought, text = message.content
    assert isinstance(thought, ThinkingBlock)
    assert thought.signature
    assert isinstance(text, TextBlock)


async def test_structured_output_fits_its_schema(rig, claude):
    class Forecast(BaseModel):
        city: str
        degrees: int

    message = await claude.messages.parse(**message_body(), output_format=Forecast)

    assert isinstance(message.parsed_output, Forecast)


async def test_tokens_are_counted_as_they_are_billed(rig, claude):
    body = message_body("how many?", system="be brief", tools=[TOOL])

    message = await claude.messages.create(**body)
    del body["max_tokens"]
    counted = await claude.messages.count_tokens(**body)

    assert counted.input_tokens == message.usage.input_tokens
    assert rig.running.ledger.totals().executions == 1


@pytest.mark.parametrize(
    ("change", "status", "kind"),
    [
        ({"model": "claude-nowhere"}, 404, "not_found_error"),
        ({"model": "gpt-5.4-mini"}, 404, "not_found_error"),
        ({"model": None}, 400, "invalid_request_error"),
        ({"messages": None}, 400, "invalid_request_error"),
        ({"messages": []}, 400, "invalid_request_error"),
        ({"messages": [{"role": "system", "content": "x"}]}, 400, "invalid_request_error"),
        ({"messages": [{"role": "user"}]}, 400, "invalid_request_error"),
        ({"max_tokens": None}, 400, "invalid_request_error"),
        ({"max_tokens": 0}, 400, "invalid_request_error"),
        ({"tool_choice": {"type": "tool", "name": "x"}}, 400, "invalid_request_error"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1}}, 400, "invalid_request_error"),
    ],
)
async def test_a_bad_body_is_refused_and_not_billed(rig, change, status, kind):
    answered, headers, error = await raw(rig, "POST", "/v1/messages", message_body(**change))

    assert (answered, error["type"], error["error"]["type"]) == (status, "error", kind)
    assert error["request_id"] == headers["request-id"]
    assert rig.running.ledger.totals().executions == 0


async def test_a_prompt_beyond_the_context_is_refused():
    async with started(models=(ModelSpec("m", kind="messages", context_tokens=5),)) as rig:
        status, _, error = await raw(
            rig, "POST", "/v1/messages", message_body("word " * 20, model="m")
        )

    assert status == 400
    assert "too long" in error["error"]["message"]


@pytest.mark.parametrize("version", [None, "1999-01-01"])
async def test_a_version_is_required(rig, version):
    status, _, error = await raw(
        rig, "POST", "/v1/messages", message_body(), **{"anthropic-version": version}
    )

    assert status == 400
    assert "anthropic-version" in error["error"]["message"]


async def test_either_form_of_a_credential_opens_the_same_account(rig):
    for headers in ({"x-api-key": "sk-ant-1"}, {"authorization": "Bearer sk-ant-1"}):
        status, _, _ = await raw(
            rig, "POST", "/v1/messages", message_body(), **{"x-api-key": None, **headers}
        )
        assert status == 200
    none, _, error = await raw(rig, "POST", "/v1/messages", message_body(), **{"x-api-key": None})

    assert len({entry.key_id for entry in rig.running.ledger.entries()}) == 1
    assert (none, error["error"]["type"]) == (401, "authentication_error")


async def test_trouble_with_the_account_has_its_own_types(rig):
    rig.running.keys.revoke("sk-ant-1")
    rig.running.keys.exhaust("sk-ant-2")

    answers = [
        await raw(rig, "POST", "/v1/messages", message_body(), **{"x-api-key": f"sk-ant-{n}"})
        for n in (1, 2)
    ]

    assert [(status, error["error"]["type"]) for status, _, error in answers] == [
        (401, "authentication_error"),
        (402, "billing_error"),
    ]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(529, "overloaded_error"), (429, "rate_limit_error"), (503, "api_error"), (418, None)],
)
async def test_a_fault_is_worded_in_this_dialect(rig, status, kind):
    rig.running.faults.add(HttpFault(action="status", status=status))

    answered, _, error = await raw(rig, "POST", "/v1/messages", message_body())

    assert answered == status
    assert error["error"]["type"] == (kind or "invalid_request_error")


async def test_one_port_speaks_both_dialects(rig, claude):
    message = await claude.messages.create(**message_body())
    chat = await rig.sdk.chat.completions.create(
        model="gpt-5.4-mini", messages=[{"role": "user", "content": "hi"}]
    )
    theirs = [model.id async for model in claude.models.list()]
    _, ours = await rig.call("GET", "/v1/models")

    assert message.type == "message"
    assert chat.object == "chat.completion"
    assert theirs == ["claude-opus-5", "claude-sonnet-5", "claude-haiku-4-5"]
    assert not {model["id"] for model in ours["data"]} & set(theirs)
    assert (await claude.models.retrieve(theirs[0])).id == theirs[0]
    assert (await rig.call("GET", f"/v1/models/{theirs[0]}"))[0] == 404


async def test_an_unknown_path_is_refused_in_the_dialect_that_asked(rig):
    status, _, error = await raw(rig, "GET", "/v1/nowhere")
    other, answer = await rig.call("GET", "/v1/nowhere")

    assert (status, error["error"]["type"]) == (404, "not_found_error")
    assert (other, answer["error"]["type"]) == (404, "invalid_request_error")
    assert rig.running.ledger.requests["GET unknown"] == 2
