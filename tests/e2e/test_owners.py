"""Whose is what: credentials reach only their provider, jobs show only to their owner."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from proxy.core.dialects import credential_hash
from proxy.core.ids import CredentialId, OwnerId
from proxy.core.lanes import BatchKey, Lane
from proxy.ports.jobs import Credential, NewJob
from proxy.sandbox import Running as Provider
from proxy.sandbox import SandboxSettings
from proxy.stores.sqlite import SqliteStores
from proxy.stores.vault import Vault
from tests.e2e.processes import (
    KEY,
    Proxy,
    body_of,
    bought,
    chat,
    proxy_and_provider,
    results,
)
from tests.helpers.factories import make_job
from tests.helpers.raw_upstream import RawUpstream, replying, wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

STRANGER = "sk-canary-stranger"
DEFER = {"X-Deferrable": "job"}


@dataclass(frozen=True)
class Scene:
    proxy: Proxy
    provider: Provider
    recorder: RawUpstream

    async def ask(
        self, method: str, path: str, *, headers: dict[str, str], body: Any = None
    ) -> tuple[int, dict[str, str], bytes]:
        async with (
            aiohttp.ClientSession() as http,
            http.request(
                method, f"{self.proxy.base_url}{path}", headers=headers, json=body
            ) as answer,
        ):
            shown = {name: value for name, value in answer.headers.items() if name != "Date"}
            return answer.status, shown, await answer.read()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with (
        RawUpstream(replying(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")) as recorder,
        proxy_and_provider(
            tmp_path_factory.mktemp("owners"),
            provider_settings=SandboxSettings(),
            upstreams={"recorder": f"http://127.0.0.1:{recorder.port}"},
        ) as (proxy, provider),
    ):
        yield Scene(proxy, provider, recorder)


# Credentials.


@pytest.mark.parametrize("tag", [{}, DEFER], ids=["interactive", "deferred"])
@pytest.mark.parametrize(
    "foreign",
    [
        {"Authorization": "Bearer sk-ant-api03-canary"},
        {"Authorization": "Bearer AIzaCanary"},
        {"Authorization": "Bearer gsk_canary"},
        {"Authorization": "Bearer sk-fine", "x-goog-api-key": "canary"},
        {"Authorization": "Bearer sk-fine", "api-key": "canary"},
        {"x-api-key": "sk-ant-canary"},
    ],
    ids=lambda headers: "+".join(headers.values()),
)
async def test_a_foreign_providers_credential_is_refused_and_goes_nowhere(
    scene: Scene, foreign: dict[str, str], tag: dict[str, str]
) -> None:
    before = len(scene.recorder.requests)
    status, _, body = await scene.ask(
        "POST",
        "/recorder/v1/chat/completions",
        headers=foreign | tag,
        body={"model": "m", "messages": []},
    )

    assert status == 421
    assert json.loads(body)["error"]["code"] == "foreign_credential"
    assert b"canary" not in body.lower()
    assert len(scene.recorder.requests) == before


async def test_no_redirect_is_followed_with_a_credential(tmp_path: Path) -> None:
    async with RawUpstream(replying(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as thief:
        moved = b"HTTP/1.1 307 Moved\r\nLocation: http://%b/\r\nContent-Length: 0\r\n\r\n"
        async with (
            RawUpstream(replying(moved % thief.authority)) as upstream,
            proxy_and_provider(
                tmp_path, upstreams={"moved": f"http://127.0.0.1:{upstream.port}"}
            ) as (proxy, _),
            aiohttp.ClientSession() as http,
            http.post(
                f"{proxy.base_url}/moved/v1/chat/completions",
                json={},
                headers={"Authorization": f"Bearer {KEY}"},
                allow_redirects=False,
            ) as answer,
        ):
            assert answer.status == 307
            assert answer.headers["Location"] == f"http://{thief.authority.decode()}/"
            assert thief.requests == []


# Jobs of others.

VERBS = [
    ("GET", "/v1/jobs/{}"),
    ("GET", "/v1/jobs/{}?wait=1"),
    ("GET", "/v1/jobs/{}/result"),
    ("GET", "/v1/jobs/{}/result?wait=1"),
    ("POST", "/v1/jobs/{}/cancel"),
    ("DELETE", "/v1/jobs/{}"),
    ("GET", "/v1/jobs?after={}"),
    ("GET", "/v1/chat/completions/{}"),
    ("GET", "/openai/v1/chat/completions/{}"),
    ("GET", "/v1/responses/{}"),
    ("POST", "/v1/responses/{}/cancel"),
    ("GET", "/openai/v1/jobs/{}"),
    ("PATCH", "/v1/jobs/{}"),
    ("GET", "/v1/files/{}"),
    ("GET", "/whatever/{}/more"),
]


@pytest.mark.parametrize("done", [False, True], ids=["pending", "done"])
async def test_anothers_job_looks_like_one_that_never_existed_on_every_verb(
    scene: Scene, done: bool
) -> None:
    key = f"sk-canary-owner-{done}"
    headers = DEFER | {"X-Deferrable-Deadline": "20h"}
    _, job = await chat(scene.proxy, f"private {done}", headers=headers, key=key)
    job_id = job["id"]
    if done:
        await results(scene.proxy, [job_id], key=key)
    never = make_job().id
    stranger = {"Authorization": f"Bearer {STRANGER}"}

    for method, path in VERBS:
        theirs = await scene.ask(method, path.format(job_id), headers=stranger)
        none = await scene.ask(method, path.format(never), headers=stranger)
        anonymous = await scene.ask(method, path.format(job_id), headers={})

        told = theirs[2].replace(job_id.encode(), never.encode())
        assert (theirs[0], theirs[1], told) == (none[0], none[1], none[2]), (method, path)
        assert theirs[0] in {404, 405}, (method, path)
        assert anonymous[0] in {401, 404, 405}, (method, path)

    _, _, lines = await scene.ask(
        "POST", "/v1/jobs/results", headers=stranger, body={"ids": [job_id]}
    )
    assert json.loads(lines)["error"]["code"] == "job_not_found"
    [(status, _)] = await results(scene.proxy, [job_id], key=key)
    assert status == 200


async def test_two_credentials_never_share_a_batch(scene: Scene) -> None:
    keys = [f"sk-canary-alike-{number}" for number in range(3)]
    made = await asyncio.gather(
        *[chat(scene.proxy, "alike", headers=DEFER, key=key) for key in keys for _ in range(4)]
    )
    ids = [job["id"] for _, job in made]
    for number, key in enumerate(keys):
        await results(scene.proxy, ids[number * 4 : number * 4 + 4], key=key)

    buyers: dict[str, set[str]] = {}
    for entry in scene.provider.ledger.entries(lane="batch"):
        assert entry.batch_id is not None
        buyers.setdefault(entry.batch_id, set()).add(entry.key_id)
    assert {len(keys_of) for keys_of in buyers.values()} == {1}
    assert [scene.provider.ledger.totals(key=key).executions for key in keys] == [4, 4, 4]


# Keys that stop working.

LANES = {
    "turnaround": "1s",
    "cancel_time": "500ms",
    "call_time": "500ms",
    "margin": "0s",
    "flex": {"enabled": False},
}


async def test_a_paused_keys_many_old_jobs_hold_up_nobody(tmp_path: Path) -> None:
    old = datetime.now(UTC) - timedelta(hours=3)  # noqa: TID251 - the proxy's own clock
    await _prepare(tmp_path, jobs=20_000, accepted_at=old)

    async with proxy_and_provider(tmp_path, provider_settings=SandboxSettings()) as (proxy, seen):
        seen.keys.revoke("sk-paused")
        made = [await chat(proxy, f"urgent {number}", headers=DEFER) for number in range(10)]
        async with asyncio.timeout(20):
            answers = await results(proxy, [job["id"] for _, job in made])

    assert {status for status, _ in answers} == {200}
    assert seen.ledger.totals(key="sk-paused").executions == 0


_OLD_BODY = json.dumps(body_of("old")).encode()


async def _prepare(folder: Path, *, jobs: int, accepted_at: datetime) -> None:
    """Fill the store of a proxy that is not running with the jobs of a paused key."""
    vault = Vault.load_or_create(folder / "offramp.key")
    stores = await SqliteStores.open(folder / "offramp.db", vault)
    try:
        owner, credential = OwnerId("a" * 64), CredentialId("b" * 64)
        await stores.credentials.remember(
            Credential(
                id=credential,
                owner=owner,
                upstream="openai",
                headers=(("authorization", "Bearer sk-paused"),),
            )
        )
        await stores.credentials.accepted(credential, at=accepted_at)
        await stores.credentials.pause(credential, at=accepted_at, status=401, body=b"{}")
        key = BatchKey(Lane.BATCH, "openai", credential, "/v1/chat/completions", "gpt-4o-mini")
        for start in range(0, jobs, 1_000):
            await asyncio.gather(
                *[
                    stores.jobs.accept(_old_job(owner, key, accepted_at, start + number))
                    for number in range(1_000)
                ]
            )
    finally:
        await stores.aclose()


def _old_job(owner: OwnerId, key: BatchKey, accepted_at: datetime, number: int) -> NewJob:
    job = make_job(
        owner=owner,
        key=key,
        accepted_at=accepted_at,
        deadline=accepted_at + timedelta(days=10),
        fingerprint=f"{number:064x}",
        body_bytes=len(_OLD_BODY),
    )
    return NewJob(job=job, body=_OLD_BODY, retry_count=0, waiter_until=accepted_at)


@pytest.mark.parametrize("has_another", [True, False], ids=["with another key", "with none"])
async def test_a_key_that_is_revoked_while_its_batch_runs(
    tmp_path: Path, has_another: bool
) -> None:
    """Another key of the same owner fetches the results; with none the jobs fail in time."""
    first, second = "sk-canary-first", "sk-canary-second"
    owners = {"etl": [credential_hash(first), credential_hash(second)]}
    async with proxy_and_provider(
        tmp_path,
        provider_settings=SandboxSettings(turnaround_s=1.5),
        changes={"owners": owners, "lanes": LANES},
    ) as (proxy, provider):
        for key in (first, second):
            provider.keys.assign(key, "proj_shared")
        if has_another:
            _, other = await chat(proxy, "by the other", headers=DEFER, key=second)
            await results(proxy, [other["id"]], key=second)
        headers = DEFER | {"X-Deferrable-Deadline": "6s"}
        made = [await chat(proxy, f"q {n}", headers=headers, key=first) for n in range(3)]
        ids = [job["id"] for _, job in made]
        await wait_until(lambda: _sent(proxy, 2 if has_another else 1))
        provider.keys.revoke(first)

        if has_another:
            answers = await results(proxy, ids, key=second)
            assert {status for status, _ in answers} == {200}
            assert [bought(provider, f"q {n}") for n in range(3)] == [1, 1, 1]
            return
        await wait_until(lambda: proxy.events("credential.paused"))
        _, _, shown = await Scene(proxy, provider, RawUpstream(replying())).ask(
            "GET", f"/v1/jobs/{ids[0]}", headers={"Authorization": f"Bearer {first}"}
        )
        assert json.loads(shown)["status"] == "in_progress"
        answers = await results(proxy, ids, key=first)
        status, refusal = await chat(proxy, "direct", key=first)

    assert status == 401
    assert [(code, json.loads(body)) for code, body in answers] == [(401, refusal)] * 3


def _sent(proxy: Proxy, count: int) -> bool:
    return len(proxy.events("batch.submitted")) >= count
