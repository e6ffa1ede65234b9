"""A fleet under load while things go wrong, and the history of it."""

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from proxy.sandbox import HttpFault
from tests.chaos.faults import Kind, plan
from tests.chaos.history import Delivered, History
from tests.chaos.stage import INSTANCES, LEASE_S, Stage, set_up
from tests.chaos.store import Restarted, Store
from tests.e2e.processes import Proxy, bill, body_of, right_answer

KEYS = [f"sk-canary-chaos-{number}" for number in range(3)]
CALLERS = 8
PATIENCE = aiohttp.ClientTimeout(total=3)
"""How long a caller waits before it turns to another instance: shorter than a freeze."""

SETTLE_S = 120
"""Within this everything must have ended once nothing goes wrong any more."""


@dataclass(frozen=True)
class Outcome:
    """What a run showed."""

    problems: list[str]
    history: History
    faults: int


async def chaos(
    folder: Path,
    *,
    seed: int,
    seconds: float,
    pause_s: float,
    say: Callable[[str], None],
    make_store: Callable[[Path], Store] = Restarted,
) -> Outcome:
    """Hurt a fleet for so long and return what came of it.

    Every `pause_s` each of the callers defers a call or makes a direct one. What goes
    wrong, when and where, follows from `seed` alone.
    """
    chance = random.Random(seed)
    history = History()
    async with set_up(folder, say, make_store=make_store) as stage:
        # To a master that others name there is no cable.
        has_cable = stage.store.port is not None
        kinds = [kind for kind in Kind if has_cable or kind not in {Kind.CUT, Kind.HUSH}]
        faults = plan(chance, seconds=seconds, instances=INSTANCES, lease_s=LEASE_S, kinds=kinds)
        for trouble in _provider_troubles(chance, patient=seconds >= 30):
            stage.provider.faults.add(trouble)
        over = asyncio.Event()
        numbers = itertools.count()
        async with asyncio.TaskGroup() as callers:
            for _ in range(CALLERS):
                own = random.Random(chance.random())
                caller = _Caller(stage, history, own, numbers, over, pause_s)
                callers.create_task(caller.run())
            async with asyncio.TaskGroup() as troubles:
                begun = asyncio.get_running_loop().time()
                for fault in faults:
                    left = begun + fault.at_s - asyncio.get_running_loop().time()
                    await asyncio.sleep(max(0, left))
                    troubles.create_task(stage.befall(fault))
            over.set()
        say(f"all is well again; {len(history.promised)} jobs were promised")
        async with asyncio.timeout(SETTLE_S):
            await _collect(stage, history)
        owed = await bill(stage.proxies[0], stage.provider)
        problems = history.faults_found(stage.provider, owed)
        for line in _about_doubles(stage):
            say(line)
    return Outcome(problems, history, len(faults))


def _about_doubles(stage: Stage) -> Iterator[str]:
    """Yield what the instances logged of the batches in which anything was bought twice."""
    bought: dict[str, list[str]] = {}
    for entry in stage.provider.ledger.entries(lane="batch"):
        bought.setdefault(entry.body_hash, []).append(str(entry.batch_id))
    doubled = {batch for batches in bought.values() if len(batches) > 1 for batch in batches}
    events = [event for proxy in stage.proxies for event in proxy.logs]
    ours = {e["batch_id"] for e in events if e.get("provider_batch_id") in doubled}
    for number, proxy in enumerate(stage.proxies):
        for event in proxy.logs:
            if event.get("batch_id") in ours:
                yield f"{number}: {json.dumps(event)}"


def _provider_troubles(chance: random.Random, *, patient: bool) -> Iterator[HttpFault]:
    """Yield troubles of the provider that leave a create or an upload in doubt."""
    for nth in sorted(chance.sample(range(1, 30), 6)):
        happened = chance.random() < 0.5
        yield HttpFault(
            action="reset_after" if happened else "reset_before",
            path="/v1/batches",
            method="POST",
            nth=nth,
        )
        if patient:
            # Half a minute passes before the upload is tried again.
            yield HttpFault(action="status", status=503, path="/v1/files", method="POST", nth=nth)


@dataclass
class _Caller:
    """Somebody who calls, and does not give up."""

    stage: Stage
    history: History
    chance: random.Random
    numbers: Iterator[int]
    over: asyncio.Event
    pause_s: float

    async def run(self) -> None:
        async with aiohttp.ClientSession(timeout=PATIENCE) as http:
            while not self.over.is_set():
                prompt, key = f"chaos {next(self.numbers)}", self.chance.choice(KEYS)
                if self.chance.random() < 0.1:
                    await self._call_directly(http, key, f"direct {prompt}")
                else:
                    await self._defer(http, key, prompt)
                await asyncio.sleep(self.pause_s)

    async def _defer(self, http: aiohttp.ClientSession, key: str, prompt: str) -> None:
        for attempt in itertools.count():
            headers = {"X-Deferrable": "job", "x-stainless-retry-count": str(attempt)}
            try:
                async with self._post(http, key, prompt, headers) as answer:
                    said = await answer.json()
            except (aiohttp.ClientError, TimeoutError):
                continue
            if answer.status == 202:
                self.history.promise(said["id"], key, prompt)
                return
            # The store is away, or new keys still share their small pool.
            assert answer.status in {429, 503}, said
            await asyncio.sleep(0.1)

    async def _call_directly(self, http: aiohttp.ClientSession, key: str, prompt: str) -> None:
        """Make a call that needs no store: it must not notice that one is away."""
        while True:
            proxy = self.stage.any_proxy(self.chance)
            try:
                async with self._post(http, key, prompt, {}, proxy) as answer:
                    said = await answer.json()
            except (aiohttp.ClientError, TimeoutError):
                # The instance is dead or stands still.
                continue
            if answer.status != 200:
                self.history.direct_failures[f"{answer.status} {said}"] += 1
            elif said["choices"][0]["message"]["content"] != right_answer(prompt):
                self.history.direct_failures["another's answer"] += 1
            return

    @asynccontextmanager
    async def _post(
        self,
        http: aiohttp.ClientSession,
        key: str,
        prompt: str,
        headers: dict[str, str],
        proxy: Proxy | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        at = proxy or self.stage.any_proxy(self.chance)
        async with http.post(
            f"{at.base_url}/v1/chat/completions",
            json=body_of(prompt),
            headers={"Authorization": f"Bearer {key}", **headers},
        ) as answer:
            yield answer


async def _collect(stage: Stage, history: History) -> None:
    """Ask every instance for everything, until all of it has ended."""
    async with aiohttp.ClientSession() as http:
        for proxy in stage.proxies:
            for key in KEYS:
                await _list(http, proxy, key, history)
        seats = asyncio.Semaphore(32)
        async with asyncio.TaskGroup() as tasks:
            for job_id, (key, _) in history.promised.items():
                tasks.create_task(_read(http, stage, history, job_id, key, seats))


async def _read(
    http: aiohttp.ClientSession,
    stage: Stage,
    history: History,
    job_id: str,
    key: str,
    seats: asyncio.Semaphore,
) -> None:
    async with seats:
        for proxy in stage.proxies[:2]:
            status, body = await _get(http, proxy, f"/v1/jobs/{job_id}/result", key)
            history.delivered.setdefault(job_id, []).append(Delivered(status, body))
        stranger = next(each for each in KEYS if each != key)
        status, _ = await _get(http, stage.proxies[2], f"/v1/jobs/{job_id}/result", stranger)
        history.to_strangers[job_id] = status


async def _list(http: aiohttp.ClientSession, proxy: Proxy, key: str, history: History) -> None:
    """List all of an owner's jobs once none is pending."""
    while True:
        found: dict[str, str] = {}
        after = ""
        while True:
            status, body = await _get(http, proxy, f"/v1/jobs?limit=100{after}", key)
            assert status == 200, body
            page = json.loads(body)
            found |= {job["id"]: job["status"] for job in page["data"]}
            if not page["has_more"]:
                break
            after = f"&after={page['data'][-1]['id']}"
        if not {"queued", "in_progress"} & set(found.values()):
            history.listed |= found
            return
        await asyncio.sleep(0.3)


async def _get(http: aiohttp.ClientSession, proxy: Proxy, path: str, key: str) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {key}"}
    while True:
        async with http.get(f"{proxy.base_url}{path}", headers=headers) as answer:
            # Once more while an instance finds its way back to the store.
            if answer.status != 503:
                return answer.status, await answer.read()
        await asyncio.sleep(0.2)
