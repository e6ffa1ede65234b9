"""Reading a body whole: as sent, bounded, and asked for where its sender waits for that."""

import asyncio
import json

from tests.web.house import CHAT, CHAT_BODY, KEY, MAX_BODY


async def test_a_body_of_unknown_length_is_read_up_to_the_bound(house):
    async def pieces(size):
        text = json.dumps({**CHAT_BODY, "x": "y" * size}).encode()
        for start in range(0, len(text), 1000):
            yield text[start : start + 1000]

    headers = {"X-Deferrable": "job", "Content-Type": "application/json"}
    small = await house.send("POST", CHAT, data=pieces(2000), headers=headers)
    large = await house.send("POST", CHAT, data=pieces(2 * MAX_BODY), headers=headers)

    assert small.status == 202
    assert (large.status, large.json["error"]["code"]) == (400, "request_too_large")


async def test_a_caller_that_asks_first_is_told_to_send_its_body(house):
    headers = {"X-Deferrable": "job", "Content-Type": "application/json"}

    reply = await house.send(
        "POST", CHAT, data=json.dumps(CHAT_BODY), headers=headers, expect100=True
    )

    assert reply.status == 202


async def test_an_old_caller_that_asks_first_gets_the_answer_alone(house):
    """RFC 9110, section 15.2: it would take the word to go on for the answer."""
    body = json.dumps(CHAT_BODY).encode()
    head = (
        f"POST {CHAT} HTTP/1.0\r\nAuthorization: Bearer {KEY}\r\nExpect: 100-continue\r\n"
        f"X-Deferrable: job\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write(f"{head}\r\n".encode() + body)
    answer = await reader.read()
    writer.close()

    assert b" 202 " in answer.split(b"\r\n")[0]


async def test_a_body_that_breaks_off_is_no_job(house):
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        "X-Deferrable: job\r\nContent-Type: application/json\r\n"
    )
    writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n".encode())
    answer = await reader.read()
    writer.close()

    assert b" 400 " in answer.split(b"\r\n")[0]
    assert await house.jobs() == []
