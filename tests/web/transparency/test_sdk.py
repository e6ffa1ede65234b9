"""A stock SDK is served the same bytes, and its bytes arrive the same, proxied or not."""

import json
from collections.abc import Awaitable, Callable

import openai
import pytest

from tests.helpers.raw_upstream import Message, RawUpstream, replying
from tests.web.transparency.harness import running_proxy

COMPLETION = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "hé"},
            }
        ],
    }
).encode()
JSON_REPLY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req_1\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(COMPLETION), COMPLETION)
)
EVENTS = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\ndata: [DONE]\n\n'
)
SSE_REPLY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"%x\r\n%b\r\n0\r\n\r\n" % (len(EVENTS), EVENTS)
)
ERROR_REPLY = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nx-request-id: req_2\r\n"
    b'Content-Length: 45\r\n\r\n{"error":{"message":"no","code":"bad_thing"}}'
)


async def chat(client):
    raw = await client.chat.completions.with_raw_response.create(
        model="m", messages=[{"role": "user", "content": "é\n"}], extra_headers={"X-Own": "1"}
    )
    return raw.headers["x-request-id"], raw.parse().model_dump()


async def stream(client):
    events = await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "x"}], stream=True
    )
    return [event.model_dump() async for event in events]


async def upload(client):
    raw = await client.files.with_raw_response.create(
        file=("a.jsonl", b'{"a":1}\n' * 100), purpose="batch", extra_headers=BOUNDARY
    )
    return raw.status_code


# The SDK draws a random boundary otherwise.
BOUNDARY = {"Content-Type": "multipart/form-data; boundary=fixed"}


async def failing(client):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.embeddings.create(model="m", input=["a"])
    return caught.value.code, caught.value.request_id


@pytest.mark.parametrize(
    ("call", "reply"),
    [(chat, JSON_REPLY), (stream, SSE_REPLY), (upload, JSON_REPLY), (failing, ERROR_REPLY)],
)
async def test_the_sdk_cannot_tell_and_neither_can_the_upstream(factory, call, reply):
    async with (
        RawUpstream(replying(reply)) as upstream,
        running_proxy(upstream.port, factory) as proxy,
    ):
        direct = await run(call, f"http://127.0.0.1:{upstream.port}/v1")
        proxied = await run(call, f"http://127.0.0.1:{proxy.port}/up/v1")

        assert proxied == direct
        first, second = upstream.requests
        assert comparable(first) == comparable(second)
        assert second.value(b"host") == first.value(b"host")


async def run(call: Callable[[openai.AsyncOpenAI], Awaitable[object]], base_url: str) -> object:
    async with openai.AsyncOpenAI(api_key="sk-x", base_url=base_url, max_retries=0) as client:
        return await call(client)


def comparable(message: Message) -> tuple[object, ...]:
    fields = [pair for pair in message.fields if pair[0].lower() != b"connection"]
    return message.start_line, fields, message.body, message.framing
