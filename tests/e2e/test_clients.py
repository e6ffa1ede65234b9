"""The proxy holds the provider's key: a real process, over TLS, and callers with tokens."""

import signal
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from proxy.core.dialects import credential_hash
from proxy.sandbox import Sandbox, SandboxSettings
from proxy.sandbox.ledger import key_id
from tests.e2e.processes import Proxy, body_of, chat, results, settings_for
from tests.helpers.certificates import write_certificate
from tests.helpers.raw_upstream import wait_until

PROVIDER_KEY = "sk-CANARYPROVIDERKEY0123456789abcdef"
TOKEN, OTHER = "of-CANARYTOKEN-one", "of-CANARYTOKEN-two"
CHAT = "/v1/chat/completions"


def _changes(folder: Path) -> dict[str, Any]:
    (folder / "provider.key").write_text(PROVIDER_KEY + "\n")
    write_certificate(folder / "cert.pem")
    tls = dict.fromkeys(("cert_file", "key_file"), str(folder / "cert.pem"))
    return {"tls": tls, "admin": {"tls": tls}, "annotate": True}


def _held(folder: Path) -> dict[str, Any]:
    clients = {"etl": [credential_hash(TOKEN)], "web": [credential_hash(OTHER)]}
    return {"key_file": str(folder / "provider.key"), "clients": clients}


async def test_the_provider_sees_its_key_alone_and_callers_their_own_jobs_alone(
    tmp_path: Path,
) -> None:
    async with Sandbox(SandboxSettings(turnaround_s=0.2)).serve() as provider:
        settings = settings_for(tmp_path, {"openai": provider.base_url}, _changes(tmp_path))
        settings["upstreams"]["openai"] |= _held(tmp_path)
        proxy = Proxy(tmp_path, settings)
        await proxy.start()
        try:
            trust = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as http:
                seen = await _what_clients_see(proxy, http)
                async with http.get(f"{proxy.admin_url}/metrics") as answer:
                    seen.append(await answer.read())
            write_certificate(tmp_path / "cert.pem")
            assert proxy.process is not None
            proxy.process.send_signal(signal.SIGHUP)
            await wait_until(lambda: bool(proxy.events("certificate.loaded")), "the new one")
        finally:
            await proxy.kill()
        calls = {(entry.key_id, entry.batch_id is None) for entry in provider.ledger.entries()}

    assert calls == {(key_id(PROVIDER_KEY), True), (key_id(PROVIDER_KEY), False)}
    files = [file for file in tmp_path.rglob("*") if file.is_file() and file.suffix != ".key"]
    seen += [file.read_bytes() for file in files]
    seen += [line.encode() for line in proxy.raw_logs]
    assert [text for text in seen if b"CANARY" in text] == []


async def _what_clients_see(proxy: Proxy, http: aiohttp.ClientSession) -> list[bytes]:
    """Call as clients do; return everything that they were answered."""
    seen: list[bytes] = []

    async def ask(
        method: str, path: str, token: str, **headers: str
    ) -> tuple[int, Mapping[str, str], bytes]:
        sent = {"Authorization": f"Bearer {token}", **headers}
        body = body_of("hello") if method == "POST" else None
        url = f"{proxy.base_url}{path}"
        async with http.request(method, url, headers=sent, json=body) as answer:
            content = await answer.read()
            seen.extend((content, str(answer.headers).encode()))
            return answer.status, answer.headers.copy(), content

    status, headers, _ = await ask("POST", CHAT, TOKEN)
    assert status == 200
    assert headers["X-Deferrable-Decision"] == "forward; by=default"
    status, headers, _ = await ask("POST", CHAT, TOKEN, **{"X-Deferrable": "job"})
    assert status == 202
    job = headers["X-Deferrable-Job"]
    assert (await ask("GET", f"/v1/jobs/{job}/result?wait=30", TOKEN))[0] == 200
    assert (await ask("GET", f"/v1/jobs/{job}", OTHER))[0] == 404
    status, _, content = await ask("POST", CHAT, "of-nobody")
    assert status == 401
    assert b'"invalid_client_token"' in content
    assert (await ask("POST", CHAT, PROVIDER_KEY))[0] == 401
    assert (await ask("GET", "/v1/files", TOKEN))[0] == 403
    assert (await ask("GET", "/v1/models", TOKEN))[0] == 200
    return seen


async def test_a_job_that_waits_is_bought_with_the_key_that_replaced_the_old_one(
    tmp_path: Path,
) -> None:
    (tmp_path / "provider.key").write_text(PROVIDER_KEY)
    async with Sandbox(SandboxSettings(turnaround_s=0.2)).serve() as provider:
        settings = settings_for(tmp_path, {"openai": provider.base_url}, {})
        settings["upstreams"]["openai"] |= _held(tmp_path)
        settings["batching"] |= {"linger": "1h", "linger_max": "1h"}
        proxy = Proxy(tmp_path, settings)
        await proxy.start()
        try:
            # Nobody has used it yet: what a stolen or replaced key is to its provider.
            provider.keys.revoke(PROVIDER_KEY)
            headers = {"X-Deferrable": "job"}
            status, job = await chat(proxy, "hello", headers=headers, key=TOKEN)
            assert status == 202
            await proxy.kill()
            (tmp_path / "provider.key").write_text("sk-the-next-one")
            settings["batching"] |= {"linger": "200ms", "linger_max": "200ms"}
            await proxy.start()
            ((status, _),) = await results(proxy, [job["id"]], key=TOKEN)
        finally:
            await proxy.kill()
        used = {entry.key_id for entry in provider.ledger.entries()}

    assert status == 200
    assert used == {key_id("sk-the-next-one")}
