"""Play one day: the real house under the weather, driven until every job has ended."""

import asyncio
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from proxy.assembly import House, Outside, assemble
from proxy.core.body import parse_body
from proxy.core.dialects import DIALECTS, place_for
from proxy.core.ids import JobId
from proxy.core.job import AnswerMode, Job, JobState
from proxy.core.price_list import PriceList
from proxy.core.upstream import Upstream
from proxy.ports.jobs import Credential
from proxy.ports.stores import Durability, Stores
from proxy.services.callers.owners import Caller
from proxy.services.deferral.accept import Acceptor
from proxy.services.deferral.terms import DeferredCall, Terms
from proxy.services.durability import DurabilityWatch
from proxy.settings import Settings
from proxy.telemetry import Metrics
from tests.helpers.factories import make_credential
from tests.helpers.fakes import FakeHash, MemoryStores
from tests.simulation.day.clock import VirtualClock, VirtualLoop, run_virtually
from tests.simulation.day.provider import Bill, DayClient, DayProvider
from tests.simulation.day.scenarios import START, Day
from tests.simulation.day.traffic import Arrival
from tests.simulation.day.weather import HOUR

PATH: Final = "/v1/chat/completions"

STEP_S: Final = 15.0
"""Between two rounds of all passes: half a second in life, which a day has no time for."""

CALLING_STEP_S: Final = 0.5
"""Between two looks at calls that wait: their rate is counted by it."""

PASSES: Final = ("live", "outlook", "flush", "submit", "collect", "escalate", "rescue")

DIALECT_OF: Final = {"flexible": "openai", "plain": "groq"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a day went."""

    day: Day
    arrivals: list[Arrival]
    jobs: Mapping[int, Job]
    bill: Bill
    metrics: Metrics

    def is_in_time(self, arrival: Arrival) -> bool:
        """Return whether the call was answered by its deadline."""
        job = self.jobs[arrival.number]
        return job.state is JobState.COMPLETED and not job.deadline_missed

    @property
    def saving(self) -> float:
        """Return the list price of all that was answered, less what was paid in all."""
        answered = sum(
            one.tokens for one in self.arrivals if self.jobs[one.number].state is JobState.COMPLETED
        )
        return answered - self.bill.paid


def play(day: Day) -> Outcome:
    """Play the day to its end."""
    loop = VirtualLoop()
    return run_virtually(_play(day, loop), loop)


async def _play(day: Day, loop: VirtualLoop) -> Outcome:
    # Passes spread out by chance; IDs decide which of two jobs of one moment is first.
    random.seed(f"{day.name} {day.seed}")
    clock = VirtualClock(START, loop)
    stores, bill, metrics = MemoryStores(), Bill(), Metrics()
    arrivals = day.traffic.day(f"{day.name} {day.seed}", START)
    async with asyncio.TaskGroup() as tasks:
        house = assemble(
            Settings.model_validate({"instance": {"lease": "2m"}} | dict(day.settings)),
            Outside(
                stores=stores,
                durability=DurabilityWatch(Durability("memory", is_durable=True)),
                keyed_hash=FakeHash(),
                clock=clock,
                upstreams=_upstreams(),
                providers={
                    name: DayProvider(weather, clock, bill) for name, weather in day.weather.items()
                },
                client=DayClient(day.weather, clock, bill, f"{day.name} {day.seed}"),
                tasks=tasks,
                random=random.randbytes,
                metrics=metrics,
                read_prices=lambda: PriceList(as_of="", source="", providers={}),
            ),
        )
        players = _Players(house, stores, clock)
        await players.enter(START)
        await players.run(arrivals)
    jobs = {number: await stores.jobs.get(job_id) for number, job_id in players.jobs.items()}
    return Outcome(day, arrivals, jobs, bill, metrics)


def _upstreams() -> Mapping[str, Upstream]:
    return {
        name: Upstream.parse(name, dialect, f"http://{name}.test")
        for name, dialect in DIALECT_OF.items()
    }


class _Players:
    """The callers, and what drives the house."""

    def __init__(self, house: House, stores: Stores, clock: VirtualClock) -> None:
        self._passes = {one.name: one.run_once for one in house.scheduler._passes}
        self._acceptor: Acceptor = house.front._deferrer._acceptor
        self._house = house
        self._stores = stores
        self._clock = clock
        self._callers: dict[str, Caller] = {}
        self.jobs: dict[int, JobId] = {}

    async def enter(self, at: datetime) -> None:
        """Let the callers' keys be known and trusted."""
        for name in DIALECT_OF:
            credential = make_credential(
                id=f"key-{name}", owner=f"owner-{name}", upstream=name, succeeded_at=at
            )
            await self._stores.credentials.remember(credential)
            self._callers[name] = _caller(credential)
        await self._house.warm_up()

    async def run(self, arrivals: list[Arrival]) -> None:
        """Send every call at its time, and run the passes until nothing is pending."""
        waiting = list(reversed(arrivals))
        while waiting or await self._stores.jobs.pending():
            now = self._clock.now()
            while waiting and waiting[-1].at <= now:
                await self._send(waiting.pop())
            for name in PASSES:
                await self._passes[name]()
            await self._sleep(waiting[-1].at if waiting else None)
            assert now < START + 90 * HOUR, "a job never ends"

    async def _sleep(self, next_arrival: datetime | None) -> None:
        """Let time pass until something may be due; calls that wait are begun meanwhile."""
        heads = await self._stores.batches.heads()
        pause_s = STEP_S if heads else await self._idle_s(next_arrival)
        until = self._clock.monotonic() + pause_s
        while self._clock.monotonic() < until:
            heads = await self._stores.batches.heads()
            calls = any(head.key.lane != "batch" for head in heads)
            left = until - self._clock.monotonic()
            await asyncio.sleep(min(left, CALLING_STEP_S) if calls else left)
            if calls:
                await self._passes["escalate"]()

    async def _idle_s(self, next_arrival: datetime | None) -> float:
        """Return how long nothing happens while no job waits."""
        times = [batch.next_at for batch in await self._stores.batches.live() if batch.next_at]
        times += [next_arrival] if next_arrival is not None else []
        left_s = (min(times, default=self._clock.now()) - self._clock.now()).total_seconds()
        return max(1.0, min(left_s, 600.0)) if times else STEP_S

    async def _send(self, arrival: Arrival) -> None:
        content: dict[str, Any] = {
            "model": "m",
            "messages": [{"role": "user", "content": "abc " * arrival.tokens}],
            "number": arrival.number,
            "tokens": arrival.tokens,
        }
        dialect = DIALECTS[DIALECT_OF[arrival.upstream]]
        place = place_for(dialect, PATH)
        assert place is not None
        parsed = parse_body(json.dumps(content).encode(), max_bytes=1 << 20)
        acceptance = await self._acceptor.accept(
            DeferredCall(
                terms=Terms(
                    caller=self._callers[arrival.upstream],
                    dialect=dialect,
                    endpoint=place.endpoint,
                    target=PATH,
                    headers=(),
                    answer=AnswerMode.JOB,
                    decided_by="header",
                    deadline=arrival.deadline,
                ),
                admitted=self._acceptor.admit(parsed, place, upstream=arrival.upstream),
                fingerprint=str(arrival.number),
            )
        )
        self.jobs[arrival.number] = acceptance.job.id


def _caller(credential: Credential) -> Caller:
    return Caller(owner=credential.owner, credential=credential, anonymous=False, names=frozenset())
