"""Telling webhooks: over real sockets, signed, again until it works, and never held up."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from standardwebhooks import Webhook

from proxy.app import SystemClock
from proxy.core.errors import ConfigError, StoreUnavailableError
from proxy.core.ids import JobId
from proxy.core.job import Succeeded, advance
from proxy.core.notices import RETRIES
from proxy.ports.jobs import JobWrite
from proxy.services.deliver import AT_ONCE, FAILING_FROM, Deliverer, Endpoint
from proxy.upstreams.lean_client import LeanClient
from proxy.web.answering.notices import notice_payload
from tests.contract.steps import OK
from tests.helpers.factories import new_job
from tests.helpers.fleet import Fleet

SECRET = b"k" * 32
TIMEOUT = timedelta(seconds=0.5)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def endpoint_at(url: str, name: str = "done") -> Endpoint:
    return Endpoint.at(name, url, secrets=[SECRET], timeout=TIMEOUT)


class Hook:
    """An endpoint, and what it was sent."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.status = 204
        self.headers: dict[str, str] = {}
        self.open = asyncio.Event()
        self.open.set()
        self.at_once = self.most_at_once = 0
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.seen.append((request.raw_path, dict(request.headers), await request.read()))
        await self.open.wait()
        self.at_once -= 1
        return web.Response(status=self.status, headers=self.headers)

    @property
    def jobs(self) -> list[str]:
        return [json.loads(body)["data"]["id"] for _, _, body in self.seen]


class World:
    def __init__(self, tasks: asyncio.TaskGroup, client: LeanClient, hooks: dict[str, Hook]):
        self.fleet = Fleet()
        # Signatures are checked against the real time.
        self.clock = self.fleet.clock
        self.clock.advance(seconds=(SystemClock().now() - self.clock.now()).total_seconds())
        self.hooks = hooks
        self.notices = self.fleet.stores.notices
        self.ground = self.fleet.instances[0].ground
        self.endpoints = [endpoint_at(hook.url, name) for name, hook in hooks.items()]
        self._tasks, self._client = tasks, client
        self.deliverer = self.make_deliverer()

    def make_deliverer(self, **changes: Any) -> Deliverer:
        usual: dict[str, Any] = {"ground": self.ground, "endpoints": self.endpoints}
        return Deliverer(
            **(usual | changes),
            client=self._client,
            payload=notice_payload,
            jitter=lambda: 1.0,
            tasks=self._tasks,
        )

    async def ended(self, webhook: str = "done", count: int = 1) -> list[JobId]:
        """Accept jobs and end them."""
        ids = []
        for _ in range(count):
            job = (await self.fleet.stores.jobs.accept(new_job(webhook=webhook))).job
            after = advance(job, Succeeded(0, self.clock.now(), OK))
            assert not await self.fleet.stores.jobs.replace_many([JobWrite(after)])
            ids.append(job.id)
        return ids

    async def deliver(self) -> None:
        """Run one pass and let its rounds end."""
        await self.deliverer.run_once()
        await self.rest()

    async def rest(self) -> None:
        rounds = [task for task in asyncio.all_tasks() if task.get_name().startswith("webhook ")]
        if rounds:
            await asyncio.wait(rounds)

    async def pending(self, webhook: str = "done") -> int:
        return (await self.notices.standing([webhook]))[webhook].pending


@asynccontextmanager
async def world(*names: str) -> AsyncIterator[World]:
    hooks = {name: Hook() for name in names or ("done",)}
    async with AsyncExitStack() as stack:
        for hook in hooks.values():
            application = web.Application()
            application.router.add_route("*", "/{rest:.*}", hook.handle)
            server = await stack.enter_async_context(TestServer(application))
            hook.url = f"http://127.0.0.1:{server.port}/hooks/offramp?source=a%2Fb"
        async with asyncio.TaskGroup() as tasks:
            client = LeanClient(tasks)
            made = World(tasks, client, hooks)
            try:
                yield made
            finally:
                for hook in hooks.values():
                    hook.open.set()
                made.deliverer.abandon()
                await client.aclose()


async def test_an_end_is_told_once_in_the_form_that_the_standards_library_verifies():
    async with world() as here:
        (job_id,) = await here.ended()
        await here.deliver()
        await here.deliver()

        ((target, headers, body),) = here.hooks["done"].seen
    assert target == "/hooks/offramp?source=a%2Fb"
    told = Webhook(SECRET).verify(body, headers)
    assert told["type"] == "job.completed"
    assert told["data"]["id"] == job_id
    assert headers["Content-Type"] == "application/json"
    assert here.fleet.tally.counts["webhook_delivered"] == 1


async def test_neither_the_prompt_nor_the_result_is_told():
    async with world() as here:
        await here.ended()
        await here.deliver()

        ((_, headers, body),) = here.hooks["done"].seen
    assert b"hello" not in body
    assert b"chatcmpl" not in body
    assert not {"authorization", "x-api-key"} & {name.lower() for name in headers}


async def test_a_repeat_has_the_same_id_and_body_and_a_time_of_its_own():
    async with world() as here:
        hook = here.hooks["done"]
        await here.ended()
        hook.status = 500
        await here.deliver()
        here.clock.advance(seconds=RETRIES[0].total_seconds())
        hook.status = 200
        await here.deliver()

        (_, first, body), (_, second, again) = hook.seen
    assert first["webhook-id"] == second["webhook-id"]
    assert first["webhook-timestamp"] != second["webhook-timestamp"]
    assert body == again
    assert Webhook(SECRET).verify(again, second)


async def test_a_dead_endpoint_is_asked_ten_times_in_three_days_and_then_given_up():
    async with world() as here:
        begun = here.clock.now()
        here.hooks["done"].status = 503
        await here.ended()
        for _ in range(24 * 30):
            await here.deliver()
            here.clock.advance(minutes=10)

        standing = (await here.notices.standing(["done"]))["done"]
        assert len(here.hooks["done"].seen) == 1 + len(RETRIES)
    assert (standing.pending, standing.given_up, standing.failed) == (0, 1, 10)
    assert standing.last_failure == "HTTP 503"
    assert standing.failed_at is not None
    assert timedelta(days=3) < standing.failed_at - begun < timedelta(days=4)
    assert here.fleet.tally.counts["webhook_given_up"] == 1


async def test_a_job_that_cannot_be_read_keeps_none_of_the_others_from_being_told():
    async with world() as here:
        damaged, *others = await here.ended(count=3)
        here.fleet.stores.jobs.damaged.add(damaged)
        await here.deliver()
        assert sorted(here.hooks["done"].jobs) == sorted(others)

        here.fleet.stores.jobs.damaged.clear()
        here.clock.advance(seconds=here.endpoints[0].taken_for.total_seconds())
        await here.deliver()

    assert here.hooks["done"].jobs[2:] == [damaged]


async def test_no_redirect_is_followed():
    async with world("done", "elsewhere") as here:
        hook = here.hooks["done"]
        hook.status, hook.headers = 307, {"Location": here.hooks["elsewhere"].url}
        await here.ended()
        await here.deliver()

        assert here.hooks["elsewhere"].seen == []
        assert (await here.notices.standing(["done"]))["done"].last_failure == "HTTP 307"
        assert await here.pending() == 1


async def test_an_endpoint_that_is_gone_is_not_told_again():
    async with world() as here:
        here.hooks["done"].status = 410
        await here.ended()
        await here.deliver()

        standing = (await here.notices.standing(["done"]))["done"]
    assert (standing.pending, standing.given_up) == (0, 1)


@pytest.mark.parametrize("form", ["seconds", "time"])
async def test_the_pause_that_an_endpoint_asks_for_is_kept(form):
    async with world() as here:
        hook = here.hooks["done"]
        until = format_datetime(here.clock.now() + timedelta(seconds=600), usegmt=True)
        hook.status = 429
        hook.headers = {"Retry-After": "600" if form == "seconds" else until}
        await here.ended()
        await here.deliver()
        here.clock.advance(seconds=599)
        await here.deliver()
        assert len(hook.seen) == 1

        here.clock.advance(seconds=1)
        await here.deliver()
        assert len(hook.seen) == 2


async def test_an_endpoint_that_does_not_answer_holds_up_no_other():
    async with world("silent", "done") as here:
        here.hooks["silent"].open.clear()
        await here.ended("silent", 3 * AT_ONCE)
        await here.ended("done", 3 * AT_ONCE)

        await here.deliverer.run_once()
        async with asyncio.timeout(30):
            while await here.pending():
                await asyncio.sleep(0)

        assert here.hooks["silent"].most_at_once <= AT_ONCE
        assert await here.pending("silent") == 3 * AT_ONCE
        assert (await here.notices.standing(["silent"]))["silent"].delivered == 0


async def test_a_silent_endpoint_is_left_after_a_while():
    async with world() as here:
        here.hooks["done"].open.clear()
        await here.ended()
        await here.deliver()

        standing = (await here.notices.standing(["done"]))["done"]
    assert standing.last_failure == "no answer within 0.5 s"


async def test_an_endpoint_that_is_not_there_is_told_later():
    async with world() as here:
        here.deliverer = here.make_deliverer(endpoints=[endpoint_at("http://127.0.0.1:1/")])
        await here.ended()
        await here.deliver()

        standing = (await here.notices.standing(["done"]))["done"]
    assert (standing.pending, standing.last_failure) == (1, "connect refused")


async def test_many_ends_are_told_in_one_round_a_few_at_once():
    async with world() as here:
        ids = await here.ended(count=5 * AT_ONCE)
        await here.deliver()

        assert sorted(here.hooks["done"].jobs) == sorted(ids)
        assert here.hooks["done"].most_at_once <= AT_ONCE


async def test_a_failing_endpoint_is_asked_one_at_a_time_until_it_answers():
    async with world() as here:
        hook = here.hooks["done"]
        hook.status = 500
        await here.ended(count=2 * AT_ONCE)
        await here.deliver()
        told = len(hook.seen)
        assert FAILING_FROM <= told == AT_ONCE

        await here.deliver()
        assert len(hook.seen) == told + 1

        hook.status = 200
        await here.deliver()
        here.clock.advance(seconds=RETRIES[0].total_seconds())
        await here.deliver()
        assert await here.pending() == 0


async def test_what_was_on_its_way_when_its_instance_died_is_told_soon_after():
    async with world() as here:
        hook = here.hooks["done"]
        hook.open.clear()
        (job_id,) = await here.ended()
        await here.deliverer.run_once()
        async with asyncio.timeout(30):
            while not hook.seen:
                await asyncio.sleep(0)
        here.deliverer.abandon()
        await here.rest()
        hook.open.set()

        await here.deliver()
        assert hook.jobs == [job_id]
        here.clock.advance(seconds=1.5 * TIMEOUT.total_seconds())
        await here.deliver()
        assert hook.jobs == [job_id, job_id]


async def test_the_notice_of_a_deleted_job_is_forgotten():
    async with world() as here:
        (job_id,) = await here.ended()
        taken = here.fleet.stores.notices.owed[job_id]
        await here.fleet.stores.jobs.erase(job_id)
        here.fleet.stores.notices.owed[job_id] = taken
        await here.deliver()

        assert here.hooks["done"].seen == []
        assert await here.pending() == 0


class Forgetful:
    """A store that is away whenever something was delivered."""

    def __init__(self, notices: Any) -> None:
        self._notices = notices
        self.away = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._notices, name)

    async def delivered(self, *args: Any, **kwargs: Any) -> None:
        if self.away:
            raise StoreUnavailableError("away")
        await self._notices.delivered(*args, **kwargs)


async def test_a_delivery_that_the_store_could_not_note_is_repeated():
    async with world() as here:
        forgetful = Forgetful(here.notices)
        here.deliverer = here.make_deliverer(ground=replace(here.ground, notices=forgetful))
        (first, second) = await here.ended(count=2)
        await here.deliver()
        assert sorted(here.hooks["done"].jobs) == sorted([first, second])

        forgetful.away = False
        here.clock.advance(seconds=1.5 * TIMEOUT.total_seconds())
        await here.deliver()
        assert len(here.hooks["done"].jobs) == 4
        assert await here.pending() == 0


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://hooks.example", "/"),
        ("https://hooks.example/", "/"),
        ("https://hooks.example/a/b/", "/a/b/"),
        ("https://hooks.example/a%2Fb?x=1/2&y", "/a%2Fb?x=1/2&y"),
        ("http://[::1]:8443?x", "/?x"),
    ],
)
def test_an_endpoint_is_asked_at_its_very_address(url, target):
    assert endpoint_at(url).target == target


def test_an_endpoint_without_a_secret_is_refused():
    with pytest.raises(ConfigError, match="sign"):
        Endpoint.at("done", "https://hooks.example/", secrets=[], timeout=TIMEOUT)


def test_an_endpoint_never_shows_its_secret():
    assert "kkkk" not in repr(endpoint_at("https://hooks.example/"))
