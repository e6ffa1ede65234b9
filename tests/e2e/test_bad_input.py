"""What a careless or hostile caller sends: a clear error each time, and a proxy that lives on."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from proxy.sandbox import Running as Provider
from tests.e2e.processes import KEY, Proxy, body_of, chat, proxy_and_provider
from tests.helpers.factories import make_job

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
LIMIT = 100_000
NEVER = make_job().id
ANY = "any code"


@dataclass(frozen=True)
class Scene:
    proxy: Proxy
    provider: Provider

    async def send(
        self, path: str, headers: dict[str, str], body: bytes, method: str = "POST"
    ) -> tuple[int, Any]:
        usual = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        async with (
            aiohttp.ClientSession() as http,
            http.request(
                method, f"{self.proxy.base_url}{path}", data=body, headers=usual | headers
            ) as answer,
        ):
            return answer.status, json.loads(await answer.read())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with proxy_and_provider(
        tmp_path_factory.mktemp("bad"), changes={"deferral": {"max_body_bytes": LIMIT}}
    ) as (proxy, provider):
        yield Scene(proxy, provider)
        assert (await chat(proxy, "still there"))[0] == 200
        assert await proxy.terminate() == 0
        assert proxy.events("library.logged") == []
        assert [line for line in proxy.raw_logs if "Traceback" in line] == []


def body(**changes: Any) -> bytes:
    return json.dumps(body_of("x") | changes).encode()


CASES: dict[str, tuple[str, dict[str, str], bytes, int, str]] = {
    "unknown mode": (CHAT, {"X-Deferrable": "later"}, body(), 400, "bad_header"),
    "empty mode": (CHAT, {"X-Deferrable": ""}, body(), 400, "bad_header"),
    "unknown header of ours": (CHAT, {"X-Deferrable-Dedline": "1h"}, body(), 400, "bad_header"),
    "past deadline": (
        *(CHAT, {"X-Deferrable": "job", "X-Deferrable-Deadline": "2020-01-01T00:00:00Z"}),
        *(body(), 400, "bad_header"),
    ),
    "unreadable deadline": (
        *(CHAT, {"X-Deferrable": "job", "X-Deferrable-Deadline": "soon"}),
        *(body(), 400, "bad_header"),
    ),
    "endless deadline": (
        *(CHAT, {"X-Deferrable": "job", "X-Deferrable-Deadline": "9999d"}),
        *(body(), 400, "bad_header"),
    ),
    "bad tags": (
        *(CHAT, {"X-Deferrable": "job", "X-Deferrable-Tags": "no equals"}),
        *(body(), 400, "bad_header"),
    ),
    "unknown webhook": (
        *(CHAT, {"X-Deferrable": "job", "X-Deferrable-Webhook": "hook"}),
        *(body(), 400, "unknown_webhook"),
    ),
    "webhook by URL": (
        *(CHAT, {"X-Deferrable": "job", "X-Deferrable-Webhook": "http://169.254.169.254/"}),
        *(body(), 400, "bad_header"),
    ),
    "malformed JSON": (CHAT, {"X-Deferrable": "job"}, b'{"model": ', 400, "not_deferrable"),
    "no object": (CHAT, {"X-Deferrable": "job"}, b"[]", 400, "not_deferrable"),
    "no UTF-8": (CHAT, {"X-Deferrable": "job"}, b'{"a": "\xff"}', 400, "not_deferrable"),
    "nested too deep": (CHAT, {"X-Deferrable": "job"}, b"[" * 50_000, 400, "not_deferrable"),
    "empty body": (CHAT, {"X-Deferrable": "job"}, b"", 400, "not_deferrable"),
    "too large": (CHAT, {"X-Deferrable": "job"}, body(pad="x" * LIMIT), 400, "not_deferrable"),
    "no model": (
        *(CHAT, {"X-Deferrable": "job"}, b'{"messages": []}'),
        *(400, "missing_required_parameter"),
    ),
    "no batch for images": (
        *("/v1/images/variations", {"X-Deferrable": "job"}, body(), 400, "not_deferrable"),
    ),
    "no JSON": (
        *(CHAT, {"X-Deferrable": "job", "Content-Type": "text/plain"}),
        *(body(), 400, "not_deferrable"),
    ),
    "stream as a job": (CHAT, {"X-Deferrable": "job"}, body(stream=True), 400, "not_deferrable"),
    "background elsewhere": (CHAT, {"X-Deferrable": "background"}, body(), 400, "not_deferrable"),
    "nowhere": ("/nowhere", {}, b"{}", 404, "unknown_upstream"),
    "jobs below": ("/v1/jobs/nothing/here", {}, b"{}", 404, "not_found"),
    "bulk without a choice": ("/v1/jobs/results", {}, b"{}", 400, ANY),
    "bulk of nonsense": ("/v1/jobs/results", {}, b'{"ids": [1, null]}', 400, ANY),
    "unknown job": (f"/v1/jobs/{NEVER}/cancel", {}, b"", 404, "job_not_found"),
    "wrong verb": (f"/v1/jobs/{NEVER}/result", {}, b"", 405, ANY),
    "forgotten job in a chain": (
        *("/v1/responses", {"X-Deferrable": "job"}),
        *(
            json.dumps({"model": "m", "input": "x", "previous_response_id": NEVER}).encode(),
            400,
            ANY,
        ),
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_bad_call_is_told_what_is_wrong_and_makes_no_job(scene: Scene, case: str) -> None:
    path, headers, content, status, code = CASES[case]

    told, answer = await scene.send(path, headers, content)

    assert told == status
    assert code in {ANY, answer["error"]["code"]}
    assert answer["error"]["message"]
    assert scene.proxy.events("job.accepted") == []


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/jobs?limit=0", 400),
        ("/v1/jobs?limit=x", 400),
        ("/v1/jobs?status=lost", 400),
        ("/v1/jobs?after=nobody", 400),
        (f"/v1/jobs/{NEVER}?wait=-1", 400),
        (f"/v1/jobs/{NEVER}?wait=1e99", 400),
        (f"/v1/jobs/{NEVER}", 404),
        (f"/v1/chat/completions/{NEVER}", 404),
        (f"/v1/jobs/{NEVER.lower()}", 404),
        ("/v1/jobs/job_short", 404),
        ("/v1/jobs/../../etc/passwd", 404),
    ],
)
async def test_a_bad_question_about_jobs_is_refused(scene: Scene, path: str, allowed: int) -> None:
    status, answer = await scene.send(path, {}, b"", method="GET")

    assert status in {allowed, 404}, answer
    assert answer["error"]["message"]


async def test_what_cannot_be_deferred_without_insisting_is_forwarded(scene: Scene) -> None:
    """`true` and `wait` are wishes; only job, raise and background insist on an ID."""
    told = [
        await scene.send(CHAT, {"X-Deferrable": tag}, b'{"model": ') for tag in ("true", "wait")
    ]

    assert [status for status, _ in told] == [400, 400]
    assert {answer["error"]["type"] for _, answer in told} == {"invalid_request_error"}
    assert scene.provider.ledger.requests[f"POST {CHAT}"] >= 2


async def test_the_admin_listener_serves_no_calls_and_the_data_port_no_management(
    scene: Scene,
) -> None:
    async with aiohttp.ClientSession() as http:
        told = {}
        for base in (scene.proxy.base_url, scene.proxy.admin_url):
            for method, path in (("POST", "/drain"), ("GET", "/metrics"), ("POST", CHAT)):
                auth = {"Authorization": f"Bearer {KEY}"}
                if (base, method) == (scene.proxy.admin_url, "POST") and path == "/drain":
                    auth["Origin"] = "http://evil.example"
                async with http.request(method, f"{base}{path}", headers=auth) as answer:
                    told[base == scene.proxy.admin_url, path] = answer.status
        rebound = {"Host": "evil.example"}
        async with http.get(f"{scene.proxy.admin_url}/metrics", headers=rebound) as answer:
            told[True, "rebound"] = answer.status

    assert told[False, "/drain"] == told[False, "/metrics"] == 404
    assert told[True, CHAT] == 404
    assert (told[True, "/drain"], told[True, "rebound"]) == (403, 421)
