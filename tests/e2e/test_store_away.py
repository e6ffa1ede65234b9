"""The store is away: direct calls do not notice, and no promise is made that cannot be kept."""

import asyncio
import base64
import random
import resource
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from proxy.sandbox import SandboxSettings
from tests.e2e.processes import KEY, Proxy, body_of, chat, proxy_and_provider, results, right_answer


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """Hold the file as another program would: nobody writes meanwhile."""
    connection = sqlite3.connect(store, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


async def test_a_locked_store_harms_no_direct_call_and_makes_no_false_promise(
    tmp_path: Path,
) -> None:
    async with proxy_and_provider(tmp_path, provider_settings=SandboxSettings()) as (proxy, _):
        before = await chat(proxy, "known", headers={"X-Deferrable": "job"})
        await results(proxy, [before[1]["id"]])
        with locked(tmp_path / "offramp.db"):
            slowest = 0.0
            for number in range(20):
                begun = time.monotonic()
                status, answer = await chat(proxy, f"direct {number}")
                slowest = max(slowest, time.monotonic() - begun)
                assert status == 200
                assert _text(answer) == right_answer(f"direct {number}")
            status, pause, code = await _defer(proxy, "refused")

        # Accepted again as soon as it is back, and what was refused left nothing behind.
        accepted = await _defer_until_accepted(proxy, "after")
        [(done, _)] = await results(proxy, [accepted])
        async with proxy.sdk() as sdk:
            listed = await sdk.get("/jobs?limit=100", cast_to=object)

    assert slowest < 5
    assert (status, code) == (503, "store_unavailable")
    assert int(pause) >= 1
    assert done == 200
    assert {job["id"] for job in listed["data"]} == {before[1]["id"], accepted}  # type: ignore[index]


async def test_a_store_that_can_only_be_read_is_not_ready(tmp_path: Path) -> None:
    changes = {"instance": {"lease": "3s"}}
    async with proxy_and_provider(
        tmp_path, provider_settings=SandboxSettings(), changes=changes
    ) as (proxy, _):
        store = tmp_path / "offramp.db"
        aside = store.rename(tmp_path / "aside.db")
        told = await _ready(proxy, status=503)
        refused = await _defer(proxy, "refused")
        aside.rename(store)
        await _ready(proxy, status=200)
        accepted = await _defer_until_accepted(proxy, "after")
        [(done, _)] = await results(proxy, [accepted])

    assert told["error"] == "the store answers, and takes nothing that is written"
    assert refused[0] == 503
    assert done == 200


async def _ready(proxy: Proxy, *, status: int) -> dict[str, str]:
    """Ask until the instance says so of itself."""
    async with aiohttp.ClientSession() as http, asyncio.timeout(60):
        while True:
            async with http.get(f"{proxy.admin_url}/readyz") as answer:
                said: dict[str, str] = await answer.json()
            if answer.status == status:
                return said


async def _defer(proxy: Proxy, prompt: str) -> tuple[int, str, str]:
    async with (
        aiohttp.ClientSession() as http,
        http.post(
            f"{proxy.base_url}/v1/chat/completions",
            json=body_of(prompt),
            headers={"Authorization": f"Bearer {KEY}", "X-Deferrable": "job"},
        ) as answer,
    ):
        content = await answer.json()
        return answer.status, answer.headers["Retry-After"], content["error"]["code"]


async def _defer_until_accepted(proxy: Proxy, prompt: str) -> str:
    while True:
        status, job = await chat(proxy, prompt, headers={"X-Deferrable": "job"})
        if status == 202:
            return str(job["id"])
        assert status == 503


def _text(answer: dict[str, object]) -> str:
    choices = answer["choices"]
    assert isinstance(choices, list)
    text = choices[0]["message"]["content"]
    assert isinstance(text, str)
    return text


async def test_a_full_disk_is_a_503_and_no_end(tmp_path: Path) -> None:
    """The file cannot grow: as SQLite's own limit of pages has it."""
    async with proxy_and_provider(tmp_path, provider_settings=SandboxSettings()) as (proxy, _):
        assert (await chat(proxy, "direct"))[0] == 200
        assert proxy.process is not None
        limit = _limit_file_size(proxy.process.pid, tmp_path)
        # However much room is left in the files that are there, and however it is compressed.
        large = base64.b64encode(random.Random(1).randbytes(limit)).decode()
        refused = await chat(proxy, large, headers={"X-Deferrable": "job"})
        direct = await chat(proxy, "direct again")
        _limit_file_size(proxy.process.pid, None)
        accepted = await _defer_until_accepted(proxy, "room again")
        [(status, _)] = await results(proxy, [accepted])

    assert (refused[0], refused[1]["error"]["code"]) == (503, "store_unavailable")
    assert (direct[0], status) == (200, 200)


def _limit_file_size(pid: int, folder: Path | None) -> int:
    """Let no file of the process grow beyond what the largest in `folder` has; return that."""
    limit = resource.RLIM_INFINITY
    if folder is not None:
        limit = max(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    return limit
