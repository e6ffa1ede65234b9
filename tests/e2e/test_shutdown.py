"""Told to end: streams finish, promises are kept by the next process, nothing is bought again."""

import asyncio
import json
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from proxy.app.serving import Running, serving
from proxy.sandbox import SandboxSettings
from proxy.settings import load
from tests.e2e.processes import (
    KEY,
    Proxy,
    body_of,
    bought,
    chat,
    proxy_and_provider,
    results,
    right_answer,
    settings_for,
)
from tests.helpers.raw_upstream import wait_until


@pytest.mark.usefixtures("_heeds_hangups")
@pytest.mark.parametrize("way", ["SIGTERM", "SIGHUP", "POST /drain"])
async def test_an_end_in_order_loses_nothing_and_cancels_nothing(tmp_path: Path, way: str) -> None:
    settings = SandboxSettings(turnaround_s=3.0, stream_pause_s=0.05)
    async with proxy_and_provider(tmp_path, provider_settings=settings) as (proxy, provider):
        _, job = await chat(proxy, "batched", headers={"X-Deferrable": "job"})
        await wait_until(lambda: proxy.events("batch.submitted"))
        async with asyncio.TaskGroup() as tasks:
            begun = asyncio.Event()
            stream = tasks.create_task(_stream(proxy, "streamed", begun))
            held = tasks.create_task(_held(proxy, "held"))
            await begun.wait()
            await wait_until(lambda: proxy.events("job.accepted"))
            ending = tasks.create_task(_end(proxy, way))
            probes = tasks.create_task(_probes(proxy, stream))

        assert ending.result() == 0
        assert stream.result() == right_answer("streamed")
        status, headers, body = held.result()
        assert (status, headers["Retry-After"]) == (503, "1")
        assert body["error"]["code"] == "draining"
        assert probes.result() == {("/livez", 200), ("/readyz", 503)}
        assert provider.ledger.requests["POST /v1/batches/{id}/cancel"] == 0

        await proxy.start()
        again = await chat(proxy, "held", headers={"X-Deferrable": "wait"})
        [(status, answer)] = await results(proxy, [job["id"]])

        assert (status, again[0]) == (200, 200)
        assert right_answer("batched").encode() in answer
        assert again[1]["choices"][0]["message"]["content"] == right_answer("held")
        assert [bought(provider, prompt) for prompt in ("batched", "held")] == [1, 1]
        assert len(proxy.events("job.accepted")) == 1
        assert await proxy.metric("offramp_possible_double_total") == 0
        assert proxy.events("instance.stopped")


async def _end(proxy: Proxy, way: str) -> int:
    if way != "POST /drain":
        return await proxy.end(signal.Signals[way])
    async with aiohttp.ClientSession() as http, http.post(f"{proxy.admin_url}/drain") as answer:
        assert answer.status == 202
    assert proxy.process is not None
    async with asyncio.timeout(30):
        return await proxy.process.wait()


async def _stream(proxy: Proxy, prompt: str, begun: asyncio.Event) -> str:
    text = ""
    async with proxy.sdk() as sdk:
        stream: Any = await sdk.chat.completions.create(**body_of(prompt), stream=True)
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            if text:
                begun.set()
    return text


async def _held(proxy: Proxy, prompt: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    async with (
        aiohttp.ClientSession() as http,
        http.post(
            f"{proxy.base_url}/v1/chat/completions",
            json=body_of(prompt),
            headers={"Authorization": f"Bearer {KEY}", "X-Deferrable": "wait"},
        ) as answer,
    ):
        return answer.status, dict(answer.headers), await answer.json()


async def _probes(proxy: Proxy, while_running: "asyncio.Task[str]") -> set[tuple[str, int]]:
    """Return what the probes answer once the instance drains, as long as the stream lasts."""
    seen: set[tuple[str, int]] = set()
    async with aiohttp.ClientSession() as http:
        # The process may be gone before its caller has read the last event.
        while not while_running.done() and proxy.process and proxy.process.returncode is None:
            with suppress(aiohttp.ClientConnectionError):
                for path in ("/livez", "/readyz"):
                    async with http.get(f"{proxy.admin_url}{path}") as answer:
                        seen.add((path, answer.status))
    return seen - {("/readyz", 200)}


async def test_a_stream_that_outlasts_the_drain_is_cut_and_the_process_ends(tmp_path: Path) -> None:
    settings = SandboxSettings(stream_pause_s=1.5)
    changes = {"instance": {"drain_timeout": "1s"}}
    async with proxy_and_provider(tmp_path, provider_settings=settings, changes=changes) as (
        proxy,
        _,
    ):
        begun = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            stream = tasks.create_task(_cut(proxy, begun))
            await begun.wait()
            code = await proxy.terminate()

    assert code == 0
    assert stream.result()


@pytest.mark.parametrize("workers", [1, 2])
async def test_who_interrupts_twice_waits_for_no_stream(tmp_path: Path, workers: int) -> None:
    settings = SandboxSettings(stream_pause_s=3_600)
    changes = {"instance": {"drain_timeout": "1h", "workers": workers}}
    async with (
        proxy_and_provider(tmp_path, provider_settings=settings, changes=changes) as (proxy, _),
        aiohttp.ClientSession() as http,
        http.post(
            f"{proxy.base_url}/v1/chat/completions",
            json=body_of("endless") | {"stream": True},
            headers={"Authorization": f"Bearer {KEY}"},
        ) as stream,
    ):
        assert proxy.process is not None
        proxy.process.send_signal(signal.SIGINT)
        while await _readiness(http, proxy) == 200:
            pass
        proxy.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(60):
            code = await proxy.process.wait()
        with pytest.raises(aiohttp.ClientPayloadError):
            await stream.read()

    assert code == 0


async def _readiness(http: aiohttp.ClientSession, proxy: Proxy) -> int:
    async with http.get(f"{proxy.admin_url}/readyz") as answer:
        return answer.status


async def _cut(proxy: Proxy, begun: asyncio.Event) -> bool:
    """Return whether a stream broke before its end."""
    try:
        await _stream(proxy, "endless", begun)
    except Exception:  # noqa: BLE001 - whatever a client makes of a cut connection
        return True
    return False


async def test_a_kill_never_ends_the_answer_of_a_held_caller_of_http_1_0(tmp_path):
    """Goal: an answer that only the end of its connection ends is broken by whatever ends it.

    Method: the process is killed, and its open connections are closed by the system.
    """
    body = json.dumps(body_of("endless")).encode()
    settings = SandboxSettings(turnaround_s=600)
    changes = {"deferral": {"heartbeat_after": "1s"}}
    async with proxy_and_provider(tmp_path, provider_settings=settings, changes=changes) as (
        proxy,
        _,
    ):
        reader, writer = await asyncio.open_connection(*proxy.base_url[len("http://") :].split(":"))
        writer.write(
            b"POST /v1/chat/completions HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer %b\r\nX-Deferrable: wait\r\nContent-Length: %d\r\n\r\n%b"
            % (KEY.encode(), len(body), body)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        await proxy.kill()

        with pytest.raises(ConnectionResetError):
            await reader.read()
    writer.close()
    assert b" 200 OK\r\n" in head
    assert b"content-length" not in head.lower()


async def test_a_second_signal_and_one_before_any_call_end_it_too(tmp_path: Path) -> None:
    async with proxy_and_provider(tmp_path) as (proxy, _):
        assert proxy.process is not None
        proxy.process.terminate()
        proxy.process.terminate()
        async with asyncio.timeout(20):
            code = await proxy.process.wait()

    assert code == 0


async def test_signals_are_obeyed_before_the_log_says_that_calls_are_taken(tmp_path: Path) -> None:
    """Goal: who stops what has just started ends it in order.

    Method: a look at the log at the moment that the signals' handlers are set.
    """
    config = tmp_path / "offramp.yaml"
    config.write_text(json.dumps(settings_for(tmp_path, {"openai": "http://127.0.0.1:9"}, {})))
    seen: list[set[str]] = []
    with capture_logs() as logs:

        def on_start(_: Running) -> None:
            seen.append({line["event"] for line in logs})

        async with serving(load(config).settings, on_start=on_start):
            told = {line["event"] for line in logs}

    assert ["instance.started" in events for events in (*seen, told)] == [False, True]
