"""The operators' listener: who may do what there, and what it says."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import date, timedelta

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from proxy.core.batch import Batch, BatchState
from proxy.core.errors import StoreUnavailableError
from proxy.core.ledger import Booking
from proxy.telemetry import Metrics
from proxy.web.operators import admin
from proxy.web.operators.admin import Readiness, admin_application
from proxy.web.operators.guard import AdminAccess
from tests.helpers.factories import T0, make_batch

NAMES = ("localhost", "127.0.0.1", "::1")
TOKEN = "an-admin-token"


class Facts:
    """An application that says what a test gives it to say."""

    def __init__(self, *, draining: bool = False, batches: Sequence[Batch] = ()) -> None:
        self.draining = draining
        self.drains = 0
        self.asked = 0
        self.failure: Exception | None = None
        self.silent = False
        self.booked: list[Booking] = []
        self._batches = batches

    async def _ask_store(self) -> None:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        if self.silent:
            await asyncio.Event().wait()

    async def readiness(self) -> Readiness:
        await self._ask_store()
        return Readiness(
            draining=self.draining,
            durability="durable",
            policies=3,
            instance="i-1",
            store="sqlite",
            alive=["i-1", "i-2"],
        )

    async def revive(self, webhook: str) -> int | None:
        return 3 if webhook == "done" else None

    async def batches(self, *, limit: int) -> Sequence[Batch]:
        await self._ask_store()
        return self._batches[:limit]

    def today(self) -> date:
        return T0.date()

    async def ledger(self, *, since: date, until: date) -> Sequence[Booking]:
        await self._ask_store()
        return [row for row in self.booked if since <= row.key.day <= until]

    def prices(self) -> Mapping[str, str]:
        return {"as_of": "2026-11-26", "source": "a test"}

    def drain(self) -> None:
        self.drains += 1
        self.draining = True


@asynccontextmanager
async def listener(facts=None, *, loopback=True, token=None, metrics=None, extra=()):
    """Serve the listener on a socket of its own."""
    access = AdminAccess(allowed_hosts=NAMES, loopback=loopback, token=token)
    application = admin_application(
        facts or Facts(), metrics=metrics or Metrics(), access=access, now=lambda: T0
    )
    for path, handler in extra:
        application.router.add_get(path, handler)
    async with TestClient(TestServer(application)) as client:
        yield client


async def status_of(client, method, path, **options):
    async with client.request(method, path, **options) as response:
        await response.read()
        return response.status


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


async def test_liveness_never_asks_the_store_and_survives_a_drain():
    facts = Facts(draining=True)
    facts.failure = StoreUnavailableError("gone")

    async with listener(facts) as client:
        assert await status_of(client, "GET", "/livez") == 200

    assert facts.asked == 0


@pytest.mark.parametrize("path", ["/livez", "/metrics", "/batches", "/nowhere"])
async def test_no_answer_tells_what_serves_it(path):
    async with listener() as client, client.get(path) as response:
        assert "Server" not in response.headers


async def test_readiness_says_what_an_operator_needs():
    async with listener() as client, client.get("/readyz") as response:
        assert response.status == 200
        assert await response.json() == {
            "status": "ready",
            "draining": False,
            "durability": "durable",
            "policies": 3,
            "instance": "i-1",
            "store": "sqlite",
            "alive": ["i-1", "i-2"],
        }


async def test_an_instance_that_drains_is_not_ready():
    async with listener(Facts(draining=True)) as client, client.get("/readyz") as response:
        assert response.status == 503
        assert (await response.json())["status"] == "draining"


async def test_an_instance_without_its_store_is_not_ready():
    facts = Facts()
    facts.failure = StoreUnavailableError("the disk is full")

    async with listener(facts) as client, client.get("/readyz") as response:
        assert response.status == 503
        assert await response.json() == {
            "status": "store unreachable",
            "error": "the disk is full",
        }


async def test_a_store_that_stays_silent_holds_no_probe(monkeypatch):
    monkeypatch.setattr(admin, "_ANSWER_TIMEOUT_S", 0.01)
    facts = Facts()
    facts.silent = True

    async with listener(facts) as client:
        assert await status_of(client, "GET", "/readyz") == 503
        assert await status_of(client, "GET", "/batches") == 503


async def test_metrics_are_those_of_this_instance():
    metrics = Metrics(strict=True)
    metrics.count("job_ended", state="completed", lane="batch")

    async with listener(metrics=metrics) as client, client.get("/metrics") as response:
        page = await response.text()

    assert response.headers["Content-Type"].startswith("text/plain; version=")
    assert 'offramp_job_ended_total{lane="batch",state="completed"} 1.0' in page


async def test_a_drain_is_asked_for_by_post_alone():
    facts = Facts()

    async with listener(facts) as client:
        assert await status_of(client, "GET", "/drain") == 405
        assert facts.drains == 0
        assert await status_of(client, "POST", "/drain") == 202
        assert facts.drains == 1
        assert await status_of(client, "GET", "/readyz") == 503


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/batches", "/nothing"])
@pytest.mark.parametrize(
    "host",
    [
        "rebound.example",
        "rebound.example:8081",
        "127.0.0.1.rebound.example",
        "localhost@rebound.example",
        "user@localhost",
        "localhost/../x",
        "[::1",
        "10.0.0.9",
        "",
    ],
)
async def test_a_host_that_is_not_allowed_gets_nothing(path, host):
    async with listener() as client:
        assert await status_of(client, "GET", path, headers={"Host": host}) == 421


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1:99", "[::1]:8081", "[::1]"]
)
async def test_an_allowed_host_is_known_with_any_port(host):
    async with listener() as client:
        assert await status_of(client, "GET", "/readyz", headers={"Host": host}) == 200


async def test_the_address_that_was_connected_to_is_always_allowed():
    # As the probe of a kubelet, which names the pod's address.
    access = AdminAccess(allowed_hosts=(), loopback=False)
    application = admin_application(Facts(), metrics=Metrics(), access=access, now=lambda: T0)

    async with TestClient(TestServer(application, host="127.0.0.1")) as client:
        assert await status_of(client, "GET", "/readyz") == 200
        assert await status_of(client, "GET", "/readyz", headers={"Host": "localhost"}) == 421


async def test_two_hosts_are_none():
    async with listener() as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()

    assert line.split()[1] in {b"400", b"421"}


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_probes_and_metrics_need_no_token_off_loopback(path):
    async with listener(loopback=False, token=TOKEN) as client:
        assert await status_of(client, "GET", path) == 200


@pytest.mark.parametrize(("method", "path"), [("POST", "/drain"), ("GET", "/batches")])
async def test_everything_else_needs_the_token_off_loopback(method, path):
    facts = Facts()
    async with listener(facts, loopback=False, token=TOKEN) as client:
        assert await status_of(client, method, path) == 401
        assert await status_of(client, method, path, headers=bearer("another")) == 401
        assert await status_of(client, method, path, headers=bearer("")) == 401
        basic = {"Authorization": f"Basic {TOKEN}"}
        assert await status_of(client, method, path, headers=basic) == 401
        assert (facts.drains, facts.asked) == (0, 0)
        assert await status_of(client, method, path, headers=bearer(TOKEN)) < 300


async def test_off_loopback_without_a_configured_token_nothing_is_open():
    facts = Facts()
    async with listener(facts, loopback=False) as client:
        assert await status_of(client, "POST", "/drain") == 403
        assert await status_of(client, "POST", "/drain", headers=bearer("")) == 403

    assert facts.drains == 0


async def test_a_configured_token_is_needed_on_loopback_too():
    async with listener(token=TOKEN) as client:
        assert await status_of(client, "POST", "/drain") == 401


async def test_a_route_that_is_added_later_is_guarded_alike():
    async def dashboard(_request):
        return web.Response(text="jobs")

    extra = [("/dashboard", dashboard)]
    async with listener(loopback=False, token=TOKEN, extra=extra) as client:
        assert await status_of(client, "GET", "/dashboard") == 401
        assert await status_of(client, "GET", "/dashboard", headers=bearer(TOKEN)) == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:1", "http://["]
)
async def test_a_page_of_another_origin_cannot_drain(origin):
    facts = Facts()
    async with listener(facts) as client:
        assert await status_of(client, "POST", "/drain", headers={"Origin": origin}) == 403
        assert facts.drains == 0
        own = {"Origin": f"http://127.0.0.1:{client.port}"}
        assert await status_of(client, "POST", "/drain", headers=own) == 202


async def test_what_a_webhook_was_not_told_is_sent_again_on_request():
    async with listener(token=TOKEN) as client:
        path = "/webhooks/done/revive"
        assert await status_of(client, "POST", path) == 401
        async with client.post(path, headers=bearer(TOKEN)) as response:
            assert await response.json() == {"webhook": "done", "revived": 3}
        nowhere = "/webhooks/other/revive"
        assert await status_of(client, "POST", nowhere, headers=bearer(TOKEN)) == 404


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "allowed"),
    [
        ("GET", "/nowhere", 404, "path_not_found", None),
        ("POST", "/batches/x/y", 404, "path_not_found", None),
        ("DELETE", "/batches", 405, "method_not_allowed", "GET,HEAD"),
        ("GET", "/drain", 405, "method_not_allowed", "POST"),
    ],
)
async def test_what_does_not_exist_is_told_in_the_shape_of_all_errors(
    method, path, status, code, allowed
):
    async with listener() as client, client.request(method, path) as response:
        told = await response.json()

    assert (response.status, told["error"]["code"]) == (status, code)
    assert path in told["error"]["message"]
    assert response.headers.get("Allow") == allowed
    assert "Server" not in response.headers


async def test_batches_are_listed_newest_first_up_to_a_limit():
    batches = [make_batch(created_at=T0 - timedelta(minutes=age)) for age in range(3)]

    async with (
        listener(Facts(batches=batches)) as client,
        client.get("/batches", params={"limit": 2}) as response,
    ):
        page = await response.json()

    assert [one["id"] for one in page["data"]] == [batch.id for batch in batches[:2]]


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1001", "", "1e3", "9" * 5_000])
async def test_a_limit_out_of_bounds_is_refused(limit):
    async with listener() as client:
        assert await status_of(client, "GET", "/batches", params={"limit": limit}) == 400


async def test_a_batch_is_found_by_its_own_and_by_the_providers_id():
    batch = make_batch(
        state=BatchState.IN_PROGRESS, count=12, provider_batch_id="batch_abc", submitted_at=T0
    )

    async with listener(Facts(batches=[batch])) as client:
        async with client.get(f"/batches/{batch.id}") as response:
            own = await response.json()
        async with client.get("/batches/batch_abc") as response:
            theirs = await response.json()
        assert await status_of(client, "GET", "/batches/other") == 404

    assert own == theirs
    assert (own["state"], own["jobs"], own["submitted_at"]) == (
        "in_progress",
        12,
        "2026-11-23T12:00:00Z",
    )


async def test_a_batch_shows_no_credential():
    batch = make_batch()

    async with (
        listener(Facts(batches=[batch])) as client,
        client.get(f"/batches/{batch.id}") as response,
    ):
        shown = json.dumps(await response.json())

    assert batch.key.credential not in shown
