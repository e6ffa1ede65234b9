"""The judge judges: what clients must not do is seen and said."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.callers.run import Stage, stage, what_is_wrong

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def on(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with stage(tmp_path_factory.mktemp("judged")) as made:
        yield made


async def posted(on: Stage, key: str, *, times: int = 1) -> str:
    """Make a call by plain HTTP over one connection; return its last answer's text."""
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x" * 200_000}]}
    headers = {"Authorization": f"Bearer {key}"}
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as http:
        for _ in range(times):
            url = f"{on.counter.base_url}/v1/chat/completions"
            async with http.post(url, json=body) as answer:
                found: dict[str, Any] = await answer.json()
    return str(found["choices"][0]["message"]["content"])


async def test_a_right_answer_that_was_bought_once_is_right(on: Stage) -> None:
    answer = await posted(on, "once")

    assert await what_is_wrong(on, "now", "once", {"answer": answer}) == ""


async def test_a_second_post_is_seen_whatever_the_client_says(on: Stage) -> None:
    answer = await posted(on, "twice", times=2)

    assert await what_is_wrong(on, "now", "twice", {"answer": answer}) == "2 POSTs, not 1"


async def test_another_lane_is_seen(on: Stage) -> None:
    answer = await posted(on, "lane")

    assert "not once by batch" in await what_is_wrong(on, "wait", "lane", {"answer": answer})


@pytest.mark.parametrize("answer", ["", "[000000000000/0] On “x”: amber."])
async def test_an_answer_that_is_not_that_of_the_call_is_seen(on: Stage, answer: str) -> None:
    await posted(on, key := f"other-{len(answer)}")

    assert "not the answer" in await what_is_wrong(on, "now", key, {"answer": answer})


async def test_silence_where_a_client_must_raise_is_seen(on: Stage) -> None:
    answer = await posted(on, "silent")

    assert await what_is_wrong(on, "raise", "silent", {"answer": answer}) == "did not raise"


async def test_an_error_without_its_job_is_seen(on: Stage) -> None:
    await posted(on, "nameless")

    told = {"raised": "Error", "message": "Bad Request"}
    assert "no job" in await what_is_wrong(on, "raise", "nameless", told)


async def test_a_caller_that_leaves_is_seen_to_leave(on: Stage) -> None:
    headers = {"Authorization": "Bearer left", "X-Deferrable": "wait"}
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "left"}]}
    url = f"{on.counter.base_url}/v1/chat/completions"
    before = len(on.proxy.events("call.deferred"))
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.post(url, json=body) as answer,
    ):
        # The first heartbeat is there.
        assert await answer.content.read(1) == b"\n"
        answer.close()

    async with asyncio.timeout(30):
        while len(on.proxy.events("call.deferred")) == before:
            await asyncio.sleep(0.02)
    assert on.proxy.events("call.deferred")[-1]["outcome"] == "caller_left"
