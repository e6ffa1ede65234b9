"""Several processes serve as one: on the same ports, over the same store."""

import asyncio
import errno
import json
import os
import re
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.app import prepare
from proxy.core.errors import ConfigError
from proxy.sandbox import Running as Provider
from proxy.settings import Address, load
from proxy.stores.sqlite.schema import SCHEMA
from proxy.stores.vault import Vault
from proxy.workers import Worker, _Place, _reserved, cannot_listen
from tests.e2e.processes import (
    Proxy,
    bought,
    chat,
    proxy_and_provider,
    results,
    settings_for,
)
from tests.helpers.old_files import put_back, schema_of
from tests.helpers.raw_upstream import wait_until

JOB = {"X-Deferrable": "job"}
RULES = "rules: []\n"


@asynccontextmanager
async def workers(
    folder: Path, count: int = 3, **changes: Any
) -> AsyncIterator[tuple[Proxy, Provider]]:
    changes = {"instance": {"workers": count}, **changes}
    async with proxy_and_provider(folder, changes=changes) as (proxy, provider):
        await wait_until(lambda: len(proxy.events("instance.started")) >= count)
        yield proxy, provider
        if proxy.process is not None and proxy.process.returncode is None:
            await proxy.terminate()


def pids(proxy: Proxy) -> list[int]:
    """Return the processes that the supervisor has started and that live."""
    assert proxy.process is not None
    children = Path(f"/proc/{proxy.process.pid}/task/{proxy.process.pid}/children")
    return [int(pid) for pid in children.read_text().split()]


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def is_gone(proxy: Proxy, pid: int) -> bool:
    return pid not in pids(proxy)


async def page(proxy: Proxy, path: str, method: str = "GET") -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, f"{proxy.admin_url}{path}") as answer,
    ):
        if answer.content_type == "application/json":
            return answer.status, await answer.json()
        return answer.status, await answer.text()


async def accepted(proxy: Proxy, prompt: str) -> str:
    """Defer a call, again and again if its worker is killed meanwhile."""
    async with asyncio.timeout(60):
        for attempt in count():
            headers = JOB | {"x-stainless-retry-count": str(attempt)}
            try:
                status, job = await chat(proxy, prompt, headers=headers)
            except aiohttp.ClientError:
                # While none lives, the port refuses thousands of tries a second.
                await asyncio.sleep(0.02)
                continue
            assert status == 202
            return str(job["id"])
    raise AssertionError("nobody took the call")


async def test_any_worker_takes_and_answers_and_one_listener_speaks_for_all(tmp_path):
    recording = {"path": "facts.jsonl"}
    async with workers(tmp_path, recording=recording) as (proxy, provider):
        prompts = [f"prompt {number}" for number in range(30)]
        ids = await asyncio.gather(*(accepted(proxy, prompt) for prompt in prompts))
        found = await results(proxy, ids)

        assert {status for status, _ in found} == {200}
        assert [bought(provider, prompt) for prompt in prompts] == [1] * 30
        status, ready = await page(proxy, "/readyz")
        assert (status, ready["workers"]) == (200, {"0": "ok", "1": "ok", "2": "ok"})
        assert await page(proxy, "/livez") == (
            200,
            {"status": "live", "workers": {"0": "ok", "1": "ok", "2": "ok"}},
        )
        _, metrics = await page(proxy, "/metrics")
        lines = [line for line in metrics.splitlines() if line.startswith("offramp_calls_total{")]
        assert sum(float(line.split()[-1]) for line in lines) >= 30
        assert {line.split('"')[1] for line in lines} > {"0"}
    # None of them is called like the older half of another.
    recorded = [file.name for file in tmp_path.glob("facts.jsonl*")]
    assert recorded
    assert all(re.fullmatch(r"facts\.jsonl\.worker-\d", name) for name in recorded)


async def test_a_killed_worker_is_replaced_and_nothing_is_lost(tmp_path):
    async with workers(tmp_path) as (proxy, provider):
        before = set(pids(proxy))
        prompts = [f"prompt {number}" for number in range(60)]

        async def kill_all_one_by_one() -> None:
            for pid in before:
                os.kill(pid, signal.SIGKILL)
                await wait_until(partial(is_gone, proxy, pid))

        async with asyncio.TaskGroup() as tasks:
            deferred = [tasks.create_task(accepted(proxy, prompt)) for prompt in prompts]
            tasks.create_task(kill_all_one_by_one())
        ids = [one.result() for one in deferred]
        found = await results_of_any(proxy, ids)

        assert [status for status, _ in found] == [200] * 60
        assert len(set(ids)) == 60
        assert [bought(provider, prompt) for prompt in prompts] == [1] * 60
        await wait_until(lambda: len(pids(proxy)) == 3)
        assert before.isdisjoint(pids(proxy))
        await wait_until(lambda: len(proxy.events("worker.ended")) == 3)
        assert {event["code"] for event in proxy.events("worker.ended")} == {-signal.SIGKILL}


async def results_of_any(proxy: Proxy, ids: list[str]) -> list[tuple[int, bytes]]:
    """Ask for results, again if the worker that was asked is killed."""
    while True:
        try:
            return await results(proxy, ids, wait_s=10)
        except aiohttp.ClientError:
            continue


async def test_sigterm_ends_all_and_sighup_reaches_all(tmp_path):
    rules = tmp_path / "policies.yaml"
    rules.write_text(RULES)
    async with workers(tmp_path, policies=str(rules)) as (proxy, _):
        assert proxy.process is not None
        rules.write_text(RULES + "# changed\n")
        proxy.process.send_signal(signal.SIGHUP)
        await wait_until(lambda: len(proxy.events("policies.loaded")) >= 6)
        children = pids(proxy)

        assert await proxy.terminate() == 0

        assert not any(map(is_there, children))
        assert len(proxy.events("instance.stopped")) == 3


@pytest.mark.usefixtures("_heeds_hangups")
async def test_without_anything_to_reload_sighup_ends_all(tmp_path):
    async with workers(tmp_path) as (proxy, _):
        assert await proxy.end(signal.SIGHUP) == 0

        assert not proxy.events("worker.ended")
        assert len(proxy.events("instance.stopped")) == 3


async def test_sighup_ends_no_worker_that_is_just_starting(tmp_path):
    rules = tmp_path / "policies.yaml"
    rules.write_text(RULES)
    proxy = over_nobody(tmp_path, policies=str(rules))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(proxy.start())
        await wait_until(lambda: proxy.process is not None and len(pids(proxy)) == 2)
        assert proxy.process is not None
        rules.write_text(RULES + "# changed\n")
        proxy.process.send_signal(signal.SIGHUP)
    await wait_until(lambda: len(proxy.events("instance.started")) == 2)

    assert await proxy.terminate() == 0

    assert not proxy.events("worker.ended")
    assert len(proxy.events("instance.stopped")) == 2


async def test_a_drain_that_one_is_asked_for_ends_all(tmp_path):
    async with workers(tmp_path, 2) as (proxy, _):
        assert proxy.process is not None
        status, _ = await page(proxy, "/drain", "POST")

        assert status == 202
        async with asyncio.timeout(30):
            assert await proxy.process.wait() == 0
        await wait_until(lambda: len(proxy.events("instance.stopped")) == 2)


async def test_a_drain_asked_of_an_orphan_is_not_passed_on_to_who_adopted_it(tmp_path):
    """The test is the parent here, and the supervisor is said to have been another process."""
    heard: list[bool] = []
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, heard.append, True)
    try:
        with (
            _reserved(Address("127.0.0.1", 0)) as listen,
            _reserved(Address("127.0.0.1", 0)) as admin,
        ):
            settings = settings_for(tmp_path, {"openai": "http://127.0.0.1:9"}, {})
            settings |= {"listen": str(listen), "admin": {"listen": str(admin)}}
            config = tmp_path / "offramp.yaml"
            config.write_text(json.dumps(settings))
            orphan = Worker(0, 1, tmp_path, "session", supervisor=os.getpid() + 1)
            place = _Place(load(config), orphan, timedelta(seconds=30))
            async with place._running() as process, asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(place._watch(process, asyncio.Event()))
                await wait_until(lambda: place._hears or watching.done())

                async with (
                    aiohttp.ClientSession() as http,
                    http.post(f"http://{admin}/drain") as answer,
                ):
                    assert answer.status == 202

                async with asyncio.timeout(30):
                    assert await watching
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
    assert process.returncode == 0
    assert not heard


async def test_workers_end_when_their_supervisor_is_gone(tmp_path):
    async with workers(tmp_path, 2) as (proxy, _):
        children = pids(proxy)
        assert proxy.process is not None
        proxy.process.kill()

        await wait_until(lambda: not any(map(is_there, children)))


async def refused(proxy: Proxy) -> int:
    """Start what must not come up; return its exit code."""
    with pytest.raises(AssertionError):
        await proxy.start()
    assert proxy.process is not None
    return await proxy.process.wait()


def over_nobody(folder: Path, **changes: Any) -> Proxy:
    """Return a proxy of two workers and without a provider, to be started."""
    changes = {"instance": {"workers": 2}, **changes}
    return Proxy(folder, settings_for(folder, {"openai": "http://127.0.0.1:9"}, changes))


async def test_what_keeps_a_worker_from_starting_ends_all_with_its_exit_code(tmp_path):
    rules = tmp_path / "policies.yaml"
    rules.write_text("rules: 7\n")
    proxy = over_nobody(tmp_path, policies=str(rules))

    assert await refused(proxy) == 3

    assert [event["code"] for event in proxy.events("workers.stopped")] == [3]


async def test_no_worker_starts_over_a_file_that_none_could_open(tmp_path):
    (tmp_path / "offramp.db").write_text("no database, but something else entirely" * 100)
    Vault.load_or_create(tmp_path / "offramp.key")
    proxy = over_nobody(tmp_path)

    assert await refused(proxy) == 1

    assert not proxy.events("workers.started")
    assert "".join(proxy.raw_logs).count("is damaged or no store") == 1


def test_a_file_of_an_earlier_version_is_brought_up_to_date_before_any_worker_starts(tmp_path):
    """A worker gives up when another one has held the file for some seconds."""
    file, config = tmp_path / "offramp.db", tmp_path / "offramp.yaml"
    config.write_text(json.dumps({"store": f"sqlite://{file}", "instance": {"workers": 2}}))
    prepare(load(config))
    put_back(file, 1)

    prepare(load(config))

    assert schema_of(file) == SCHEMA
    # Closed, with nothing left in a log: the supervisor is to hold no lock.
    assert sorted(each.suffix for each in tmp_path.glob("offramp.*")) == [".db", ".key", ".yaml"]


async def test_a_port_that_somebody_else_has_is_not_shared_with_them(tmp_path):
    async with workers(tmp_path, 2) as (proxy, _):
        taken = proxy.base_url.removeprefix("http://")
        other = tmp_path / "other"
        other.mkdir()
        second = over_nobody(other, listen=taken)

        assert await refused(second) == 3

        assert "cannot listen" in "".join(second.raw_logs)


@pytest.mark.parametrize("second", ["127.0.0.1", "0.0.0.0"])
def test_a_port_is_held_before_any_worker_listens(second):
    with _reserved(Address("127.0.0.1", 0)) as held:
        with (
            pytest.raises(ConfigError, match="cannot listen"),
            _reserved(Address(second, held.port)),
        ):
            raise AssertionError("two have it")

        # Not from the workers that it is held for.
        with listener_at(held) as one, listener_at(held) as two:
            assert one.getsockname() == two.getsockname()


@pytest.mark.parametrize(
    ("error", "reason", "hint"),
    [
        (OSError(errno.EADDRINUSE, "while binding: in use"), "Address already in use", "--listen"),
        (OSError(errno.EACCES, "no"), "Permission denied", "below 1024"),
        (OSError(errno.EADDRNOTAVAIL, "no"), "Cannot assign requested", "of this machine"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not", "of this mach"),
        (OSError("odd"), "odd", "of this machine"),
    ],
)
def test_why_a_listener_cannot_have_its_address_and_what_to_do(error, reason, hint):
    told = cannot_listen(Address("127.0.0.1", 80), error)

    assert told.message.startswith(f"cannot listen on 127.0.0.1:80: {reason}")
    assert hint in (told.hint or "")


def test_a_port_can_be_had_again_while_the_last_connections_to_it_fade():
    with (
        _reserved(Address("127.0.0.1", 0)) as held,
        listener_at(held) as worker,
        socket.create_connection((held.host, held.port)) as caller,
    ):
        accepted, _ = worker.accept()
        # Who ends first leaves it in TIME_WAIT.
        accepted.close()
        assert caller.recv(1) == b""

    with _reserved(held) as again, listener_at(again) as worker:
        assert worker.getsockname() == (held.host, held.port)


def listener_at(address: Address) -> socket.socket:
    """Listen as a worker does."""
    return socket.create_server((address.host, address.port), reuse_port=True)
