"""Canary secrets: a key, a prompt and a result appear nowhere but where they belong."""

import asyncio
import json
from pathlib import Path

import aiohttp

from proxy.sandbox import HttpFault, LineFault, SandboxSettings, answer_text, body_hash
from proxy.stores.vault import Vault
from tests.e2e.processes import Proxy, body_of, chat, proxy_and_provider, results, run

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
