"""Canary secrets: a key, a prompt and a result appear nowhere but where they belong."""

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.sandbox import HttpFault, LineFault, Sandbox, SandboxSettings, answer_text, body_hash
from proxy.stores.vault import Vault
from tests.e2e.commands import MANY, Desk
from tests.e2e.processes import Proxy, body_of, chat, proxy_and_provider, results, run
from tests.helpers.raw_upstream import wait_until
from tests.helpers.redis_server import RedisServer, redis_server

HOOK_SECRET = base64.b64encode(b"CANARYWEBHOOK" * 2).decode()
KEY = "sk-CANARYKEYaaaabbbbccccddddeeeeffff"
OTHER_KEY = "CANARYOTHERKEYwithout-any-known-shape"
PROMPT = "CANARYPROMPT tell nobody"
ANSWER = answer_text(body_hash(body_of(PROMPT)), PROMPT)
MARKS = [b"CANARY", ANSWER.split(":")[-1].strip().encode()]
"""All keys and the prompt, and those words of the answer that the prompt is not among."""


async def test_secrets_appear_in_no_log_metric_error_file_or_process_title(tmp_path: Path) -> None:
    seen: list[bytes] = []
    async with proxy_and_provider(
        tmp_path, provider_settings=SandboxSettings(), changes={"log": {"level": "debug"}}
    ) as (proxy, provider):
        await _everything_that_callers_do(proxy, seen)
        provider.faults.add(LineFault(outcome="status", status=400, message="bad line"))
        provider.faults.add(HttpFault(action="status", path="/v1/batches/*", method="GET"))
        await _everything_that_callers_do(proxy, seen)
        pages = ("", "/jobs", "/batches", "/rules", "/providers", "/webhooks")
        shown = ("/metrics", "/batches", "/ledger", *(f"/dashboard{page}" for page in pages))
        seen += [await _get(f"{proxy.admin_url}{path}") for path in shown]
        assert proxy.process is not None
        seen.append(Path(f"/proc/{proxy.process.pid}/cmdline").read_bytes())
        seen.append(Path(f"/proc/{proxy.process.pid}/environ").read_bytes())
        files = _files(tmp_path)
        await proxy.kill()
        await proxy.start()
        assert await proxy.terminate() == 0

    assert any(file.suffix == ".db" for file in files)
    files |= _files(tmp_path)
    found = {file.name for file, content in files.items() for mark in MARKS if mark in content}
    assert found == set()
    assert [line for line in proxy.raw_logs for mark in MARKS if mark.decode() in line] == []
    assert [text for text in seen for mark in MARKS if mark in text] == []


async def _everything_that_callers_do(proxy: Proxy, seen: list[bytes]) -> None:
    """Make calls that succeed, and keep what is answered to those that fail."""
    defer = {"X-Deferrable": "job"}
    assert (await chat(proxy, PROMPT, key=KEY))[0] == 200
    made = [await chat(proxy, PROMPT, headers=defer, key=KEY) for _ in range(2)]
    await results(proxy, [job["id"] for _, job in made], key=KEY)
    await chat(proxy, PROMPT, headers={"X-Deferrable": "wait"}, key=OTHER_KEY)
    path = "/v1/chat/completions"
    body = json.dumps(body_of(PROMPT)).encode()
    for target, headers, content in (
        (path, {"X-Deferrable": "job"}, body[:-2]),
        (path, {"X-Deferrable": "nonsense"}, body),
        (path, {"X-Deferrable": "job"}, body.replace(b'"model"', b'"modell"')),
        (path, {"X-Deferrable": "job", "x-goog-api-key": OTHER_KEY}, body),
        (path, {"X-Deferrable": "job", "X-Deferrable-Deadline": "never"}, body),
        (f"{path}?key={OTHER_KEY}", {"X-Deferrable": "job"}, body),
        (f"/nowhere?key={OTHER_KEY}", {}, body),
        (f"/v1/jobs/{made[0][1]['id']}?key={OTHER_KEY}", {}, body),
    ):
        seen.append(await _post(f"{proxy.base_url}{target}", headers, content))


async def _post(url: str, headers: dict[str, str], content: bytes) -> bytes:
    sent = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"} | headers
    async with (
        aiohttp.ClientSession() as http,
        http.post(url, data=content, headers=sent) as answer,
    ):
        assert answer.status >= 400, url
        return await answer.read()


async def _get(url: str) -> bytes:
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        return await answer.read()


def _files(folder: Path) -> dict[Path, bytes]:
    """Return every file that the process may write: its store, its home, its `/tmp`."""
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


async def test_no_secret_lies_in_redis_in_a_record_of_calls_or_goes_to_a_webhook(
    tmp_path: Path,
) -> None:
    told: list[bytes] = []

    async def hear(request: web.Request) -> web.Response:
        told.append(await request.read())
        told.append(str(request.headers).encode())
        return web.Response(status=204)

    application = web.Application()
    application.router.add_post("/told", hear)
    Vault.load_or_create(tmp_path / "offramp.key")
    seen: list[bytes] = []
    with redis_server(tmp_path) as redis:
        async with TestServer(application) as hook:
            changes = {
                "store": redis.url,
                "secret_key_file": str(tmp_path / "offramp.key"),
                "recording": {"path": str(tmp_path / "facts.jsonl")},
                "webhooks": {
                    "done": {"url": str(hook.make_url("/told")), "secret": HOOK_SECRET},
                },
            }
            async with proxy_and_provider(tmp_path, changes=changes) as (proxy, _):
                await _everything_that_callers_do(proxy, seen)
                headers = {"X-Deferrable": "job", "X-Deferrable-Webhook": "done"}
                await chat(proxy, PROMPT, headers=headers, key=KEY)
                await wait_until(lambda: bool(told), "the webhook")
                assert await proxy.terminate() == 0
        kept = _dump(redis)

    assert len(kept) > 10
    facts = (tmp_path / "facts.jsonl").read_bytes()
    assert facts
    places = (*kept, *told, *seen, facts, *(line.encode() for line in proxy.raw_logs))
    assert [text for text in places for mark in MARKS if mark in text] == []


def _dump(redis: RedisServer) -> list[bytes]:
    """Return every key of a Redis, and everything that lies there."""
    found: list[bytes] = []
    client: Any = redis.admin
    for key in client.scan_iter(count=1_000):
        found.append(key)
        match client.type(key):
            case b"string":
                found.append(client.get(key) or b"")
            case b"hash":
                found += [part for pair in client.hgetall(key).items() for part in pair]
            case b"zset":
                found += client.zrange(key, 0, -1)
            case b"set":
                found += client.smembers(key)
            case b"list":
                found += client.lrange(key, 0, -1)
            case b"stream":
                found.append(repr(client.xrange(key)).encode())
            case kind:
                raise AssertionError(f"a kind of value that nobody looks into: {kind!r}")
    return found


async def test_what_commands_keep_to_go_on_with_holds_no_secret(tmp_path: Path) -> None:
    async with Sandbox(SandboxSettings(turnaround_s=0.2)).serve() as provider:
        desk = Desk(tmp_path, provider)
        (tmp_path / "calls.jsonl").write_text(json.dumps(body_of(PROMPT)) + "\n")
        sent = await desk.run("send", "calls.jsonl", "-o", "answers.jsonl", OPENAI_API_KEY=KEY)
        script = desk.script(MANY.replace("ticket", PROMPT))
        ran = await desk.run("run", "--", sys.executable, script, "2", OPENAI_API_KEY=KEY)

    assert (sent.code, ran.code) == (0, 0)
    # What the user gave and wanted holds the prompt and the answers; nothing holds the key.
    given = {"calls.jsonl", "answers.jsonl", Path(script).name}
    files = {file: content for file, content in _files(tmp_path).items() if file.name not in given}
    assert files
    found = {file for file, content in files.items() for mark in MARKS if mark in content}
    assert found == set()
    assert KEY not in sent.stdout + sent.stderr + ran.stdout + ran.stderr


async def test_the_store_and_its_key_are_for_their_user_alone(tmp_path: Path) -> None:
    async with proxy_and_provider(tmp_path) as (proxy, _):
        await chat(proxy, "hello", headers={"X-Deferrable": "job"})
        modes = {
            file.name: file.stat().st_mode & 0o077
            for file in tmp_path.iterdir()
            if file.name.startswith("offramp.") and file.suffix != ".yaml"
        }

    assert {"offramp.db", "offramp.key"} <= set(modes)
    assert set(modes.values()) == {0}


async def test_a_bug_in_an_answer_shows_no_secret_and_no_traceback_to_its_caller(
    tmp_path: Path,
) -> None:
    """Raw bytes that no parser likes: whatever is made of them, it quotes nothing."""
    junk = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + KEY.encode()
    async with proxy_and_provider(tmp_path) as (proxy, _):
        port = int(proxy.base_url.rpartition(":")[2])
        told = []
        for rest in (b"\r\nBad Header\r\n\r\n", b"\r\nContent-Length: x\r\n\r\n", b"\x00\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(junk + rest)
            told.append(await reader.read(-1))
            writer.close()
            await writer.wait_closed()
        assert (await chat(proxy, "still there"))[0] == 200

    assert [answer for answer in told if b"CANARY" in answer or b"Traceback" in answer] == []
    assert "CANARY" not in "".join(proxy.raw_logs)


async def test_the_command_line_shows_no_secret(tmp_path: Path) -> None:
    config = tmp_path / "offramp.yaml"
    key_file = tmp_path / "key"
    Vault.load_or_create(key_file)
    config.write_text(
        f"store: redis://user:{OTHER_KEY}@127.0.0.1:1/0\nsecret_key_file: {key_file}\n"
    )

    shown = await run(tmp_path, "check", "--config", str(config))
    served = await run(tmp_path, "serve", "--config", str(config))
    hashed = await run(tmp_path, "credential", "hash", "--help")

    assert OTHER_KEY not in shown.stdout + shown.stderr + served.stdout + served.stderr
    assert "redis://***@127.0.0.1:1/0" in shown.stdout
    assert served.code != 0
    assert hashed.code == 0
