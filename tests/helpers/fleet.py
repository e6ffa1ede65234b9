"""Instances of all background services over shared stores, driven by hand.

Time moves only when a test moves it, passes run only when a test runs them, and
an instance can be killed at any step: before any call to a store or a provider.
"""

import asyncio
import inspect
import json
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any, cast

from proxy.core.batch import Batch
from proxy.core.choice import LaneFacts, choose_lane
from proxy.core.ids import CredentialId, InstanceId, JobId, OwnerId
from proxy.core.job import CancelRequested, Job, JobState, advance
from proxy.core.lanes import LaneTimes
from proxy.core.ledger import Sums, total
from proxy.core.plan import FlushLimits, PollPace
from proxy.core.upstream import Upstream
from proxy.ports.tasks import TaskOwner
from proxy.services.access import Access
from proxy.services.batches.collect import Collector
from proxy.services.batches.flush import Flusher
from proxy.services.batches.governor import TokenGovernor
from proxy.services.batches.ingest import Ingestor
from proxy.services.batches.settle import Settler
from proxy.services.batches.steps import SubmitTimes
from proxy.services.batches.submit import Submitter
from proxy.services.callers.accounts import CredentialVerdict
from proxy.services.direct.budget import Budget, HourlyLimits
from proxy.services.direct.call import DirectCaller
from proxy.services.direct.caps import EscalationLimits
from proxy.services.direct.escalate import Escalator
from proxy.services.experience import Experience
from proxy.services.flex import FlexTier
from proxy.services.ground import Ground
from proxy.services.leases import Leases
from proxy.services.outlook import Outlook
from proxy.services.prune import Pruner
from proxy.services.rescue import Rescuer
from proxy.services.trickle import TrickleHours
from proxy.services.waiters import Waiters
from tests.helpers.books import make_books
from tests.helpers.factories import IDS, T0, make_credential, make_job, make_key, new_job
from tests.helpers.fake_provider import FakeProvider, Fault
from tests.helpers.fakes import FakeClock, MemoryStores

TIMES = LaneTimes()
LEASE = timedelta(seconds=15)


class Killed(BaseException):
    """The process was killed at this point. No handler of ours may catch it."""


class TallyCounter:
    """Counts in memory."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.labels: dict[str, list[dict[str, str]]] = {}

    def count(self, name: str, amount: float = 1, /, **labels: str) -> None:
        self.counts[name] += int(amount)
        self.labels.setdefault(name, []).append(labels)


class Mortal:
    """Passes calls on to a port, until the instance is killed."""

    def __init__(self, port: object, instance: "Instance") -> None:
        self._port = port
        self._instance = instance

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)
        if not callable(method):
            return method

        if inspect.iscoroutinefunction(method):

            async def guarded(*args: object, **kwargs: object) -> object:
                await self._instance.step()
                return await method(*args, **kwargs)

            return guarded
        return method


class Instance:
    """One process of the fleet: every service, over ports that can be cut off."""

    def __init__(self, fleet: "Fleet", name: str) -> None:
        self.fleet = fleet
        self.steps_left: int | None = None
        self.frozen_after: int | None = None
        self.thawed = asyncio.Event()
        clock = fleet.clock

        def port(real: object) -> Any:
            return Mortal(real, self)

        stores = fleet.stores
        self.leases = Leases(
            store=port(stores.leases), clock=clock, instance=InstanceId(name), ttl=LEASE
        )
        ground = Ground(
            jobs=port(stores.jobs),
            queue=port(stores.queue),
            deliveries=port(stores.deliveries),
            credentials=port(stores.credentials),
            batches=port(stores.batches),
            notices=port(stores.notices),
            clock=clock,
            leases=self.leases,
            books=make_books(port(stores.ledger), clock, fleet.tally),
            tally=fleet.tally,
            setback=stores.setback,
        )
        self.ground = ground
        self.access = access = Access(
            providers={"openai": port(fleet.provider)},
            credentials=ground.credentials,
            clock=clock,
            tally=fleet.tally,
        )
        upstreams = {"openai": Upstream.parse("openai", "openai", "http://127.0.0.1:1")}
        self.outlook = outlook = Outlook(
            Experience(
                notes=port(stores.notes),
                unbatchable=port(stores.unbatchable),
                clock=clock,
                times=TIMES,
            ),
            providers={"openai": port(fleet.provider)},
            upstreams=upstreams,
            clock=clock,
            flex=FlexTier(upstreams, enabled=fleet.has_flex),
            trickle=fleet.trickle,
        )
        self.waiters = waiters = Waiters(jobs=ground.jobs, clock=clock)
        self.governor = governor = TokenGovernor(port(stores.notes))
        pace = PollPace()
        self.ingestor = Ingestor(ground, access=access, outlook=outlook, waiters=waiters)
        settler = Settler(
            ground,
            access=access,
            ingestor=self.ingestor,
            governor=governor,
            outlook=outlook,
        )
        self.make_escalator: Callable[[TaskOwner], Escalator] = lambda tasks: Escalator(
            ground,
            access=access,
            caller=DirectCaller(port(fleet.provider.direct()), upstreams, clock),
            waiters=waiters,
            limits=fleet.escalation,
            outlook=outlook,
            budget=Budget(port(stores.notes), clock, fleet.budget),
            tasks=tasks,
        )
        self.passes: dict[str, Callable[[], Awaitable[int]]] = {
            "live": self.leases.run_once,
            "outlook": outlook.experience.run_once,
            "flush": Flusher(
                ground,
                access=access,
                governor=governor,
                limits=FlushLimits(max_requests=50_000, max_bytes=100_000_000),
                outlook=outlook,
                new_batch_id=lambda: IDS.batch(clock.now()),
            ).run_once,
            "submit": Submitter(
                ground, access=access, times=SubmitTimes(), outlook=outlook, pace=pace
            ).run_once,
            "collect": Collector(
                ground,
                access=access,
                settler=settler,
                outlook=outlook,
                governor=governor,
                pace=pace,
                jitter=lambda: 1.0,
            ).run_once,
            "escalate": self._escalate,
            "lost_calls": self._release_lost,
            "rescue": Rescuer(ground, waiters=waiters, verify=fleet.verify).run_once,
            "prune": Pruner(
                ground,
                ledger=port(stores.ledger),
                keep_results=timedelta(days=365),
                keep_ledger=timedelta(days=365),
            ).run_once,
        }

    async def _escalate(self) -> int:
        async with asyncio.TaskGroup() as tasks:
            return await self.make_escalator(tasks).run_once()

    async def _release_lost(self) -> int:
        # Each pass of these waits for its calls, so that none is under way.
        async with asyncio.TaskGroup() as tasks:
            return await self.make_escalator(tasks).release_lost()

    async def step(self) -> None:
        """Count one call of a port; die or freeze when none is left."""
        # Others may run at every call, as in life.
        await asyncio.sleep(0)
        if self.frozen_after is not None:
            self.frozen_after -= 1
            if self.frozen_after < 0:
                await self.thawed.wait()
        if self.steps_left is not None:
            if self.steps_left <= 0:
                raise Killed
            self.steps_left -= 1

    def watch_wakes(self) -> list[JobId]:
        """Return the list that every later wake-up adds its jobs to."""
        woken: list[JobId] = []
        cast("Any", self.waiters).wake = woken.extend
        return woken

    @property
    def is_frozen(self) -> bool:
        """Whether it stands still in the middle of a pass."""
        return self.frozen_after is not None and self.frozen_after < 0 and not self.thawed.is_set()

    def thaw(self) -> None:
        """Let it go on with what it was doing, however much later it is."""
        self.frozen_after = None
        self.thawed.set()
        self.thawed = asyncio.Event()

    async def run(self, name: str) -> bool:
        """Run a pass; return whether the instance survived it."""
        try:
            await self.passes[name]()
        except Killed:
            return False
        except BaseExceptionGroup as group:
            killed, rest = group.split(Killed)
            if rest is not None:
                raise rest from None
            assert killed is not None
            return False
        return True


class Fleet:
    """One truth, one provider, some instances, and what was promised to callers."""

    def __init__(
        self,
        *,
        stores: Any = None,
        setback: timedelta = timedelta(),
        instances: int = 1,
        escalation: EscalationLimits | None = None,
        budget: HourlyLimits | None = None,
        has_flex: bool = False,
        trickle: TrickleHours | None = None,
    ) -> None:
        self.clock = FakeClock(T0)
        self.budget = budget
        self.has_flex = has_flex
        self.trickle = trickle
        self.escalation = escalation or EscalationLimits()
        self.has_threads = stores is not None
        """Whether the stores work outside of the event loop, so that it may have to wait."""
        memory = MemoryStores(setback=setback)
        self.stores = cast("MemoryStores", stores) if stores is not None else memory
        self.provider = FakeProvider(self.clock)
        self.tally = TallyCounter()
        self.births = 0
        self.instances = [self.born() for _ in range(instances)]
        self.bodies: dict[JobId, bytes] = {}

    def born(self) -> Instance:
        self.births += 1
        return Instance(self, f"instance-{self.births}")

    def kill(self, position: int) -> None:
        """Replace an instance by a new one, which knows nothing of it."""
        self.instances[position] = self.born()

    async def verify(self, credential: object) -> CredentialVerdict:
        token = dict(cast("Any", credential).headers)["authorization"]
        is_revoked = token in self.provider.revoked
        return CredentialVerdict.REFUSED if is_revoked else CredentialVerdict.ACCEPTED

    async def add_credential(
        self, name: str = "credential-1", owner: str = "owner-of-credential-1"
    ) -> None:
        await self.stores.credentials.remember(
            make_credential(
                id=CredentialId(name),
                owner=OwnerId(owner),
                headers=(("authorization", f"Bearer {name}"),),
            )
        )

    async def accept(
        self,
        *,
        deadline: timedelta = timedelta(hours=26),
        credential: str = "credential-1",
        **changes: Any,
    ) -> JobId:
        """Accept one job with a body of its own; `changes` are fields of the record."""
        now = self.clock.now()
        body = json.dumps({"model": "gpt-4o-mini", "n": len(self.bodies)}).encode()
        choice = choose_lane(now + deadline, LaneFacts(has_batch=True, times=TIMES), now=now)
        lane = changes.get("lane", choice.lane)
        fields: dict[str, Any] = {
            "id": IDS.job(now),
            "accepted_at": now,
            "deadline": now + deadline,
            "owner": OwnerId(f"owner-of-{credential}"),
            "key": make_key(lane=lane, credential=CredentialId(credential), urgency=choice.urgency),
            "lane": lane,
            "lane_reason": choice.reason,
            "body_bytes": len(body),
        }
        job = make_job(**(fields | changes))
        await self.add_credential(credential, owner=f"owner-of-{credential}")
        await self.stores.jobs.accept(new_job(job, body=body))
        self.bodies[job.id] = body
        return job.id

    async def accept_many(self, count: int, **changes: Any) -> list[JobId]:
        """Accept `count` jobs, one after the other."""
        return [await self.accept(**changes) for _ in range(count)]

    async def cancel(self, job_id: JobId) -> None:
        job = await self.stores.jobs.get(job_id)
        after = advance(job, CancelRequested(self.clock.now()))
        if after is not job:
            books = make_books(self.stores.ledger, self.clock, self.tally)
            await self.stores.jobs.replace_many([books.write(after)])

    async def round(self, position: int = 0) -> None:
        """Run every pass of one instance once."""
        for name in self.instances[position].passes:
            if not await self.instances[position].run(name):
                self.kill(position)
                return

    async def run_for(self, duration: timedelta, *, step: timedelta) -> None:
        """Let the time pass, every instance running its passes at each step."""
        end = self.clock.now() + duration
        while self.clock.now() < end:
            for position in range(len(self.instances)):
                await self.round(position)
            self.clock.advance(seconds=step.total_seconds())

    async def run(self, *names: str, position: int = 0) -> None:
        """Run these passes of one instance, which survives them."""
        for name in names:
            assert await self.instances[position].run(name)

    async def flush(self, count: int = 12, **changes: Any) -> list[JobId]:
        """Accept jobs and seal them into one batch."""
        job_ids = await self.accept_many(count, **changes)
        self.clock.advance(seconds=60)
        await self.run("live", "flush")
        return job_ids

    async def submit(self, count: int = 12, **changes: Any) -> list[JobId]:
        """Accept jobs and bring them to the provider as one batch."""
        job_ids = await self.flush(count, **changes)
        await self.run("submit")
        return job_ids

    def will(self, operation: str, *faults: Fault, times: int = 1) -> None:
        """Have the next calls of an operation of the provider go wrong, in these ways in turn."""
        self.provider.faults[operation] = deque(faults * times)

    async def wait(self, duration: timedelta, *names: str, position: int = 0) -> None:
        """Let some time pass, and run passes of an instance."""
        self.clock.advance(seconds=duration.total_seconds())
        await self.run("live", *names, position=position)

    async def recovered(self) -> None:
        """Let both searches for an unclear create happen, and what follows from them."""
        for _ in range(3):
            await self.wait(timedelta(seconds=30), "submit")

    async def everything_ends(self) -> None:
        """Let more than a day pass."""
        await self.run_for(timedelta(hours=27), step=timedelta(minutes=5))

    def appear_twice(self) -> None:
        """Have the provider know the first batch a second time, as after a create sent twice."""
        first = self.provider.batches["batch_1"]
        self.provider.batches["batch_2"] = replace(first, id="batch_2", results=[])

    async def poll(self, **delta: float) -> None:
        """Let some time pass, ten seconds if not told, and ask after batches once."""
        self.clock.advance(**(delta or {"seconds": 10}))
        await self.run("live", "collect")

    async def answer(self) -> None:
        """Let the provider's turnaround pass, and read what is there."""
        self.clock.advance(seconds=self.provider.turnaround.total_seconds())
        await self.run("live", "collect")

    async def batch(self) -> Batch:
        """Return the newest batch."""
        (newest,) = await self.stores.batches.recent(limit=1)
        return newest

    async def job(self, job_id: JobId) -> Job:
        return await self.stores.jobs.get(job_id)

    async def states(self) -> Counter[JobState]:
        return Counter([job.state for job in await self.jobs()])

    async def jobs(self) -> list[Job]:
        return list(await self.stores.jobs.get_many(list(self.bodies)))

    async def booked(self) -> Sums:
        """Return everything that the ledger holds, of all days."""
        rows = await self.stores.ledger.rows(since=date.min, until=date.max)
        return total(rows)

    def doubles(self) -> tuple[int, int]:
        """Return how many bodies were bought more than once, and what was booked for that."""
        extra = sum(count - 1 for count in self.provider.bought.values() if count > 1)
        return extra, self.tally.counts["possible_double"] + self.tally.counts["late_result"]
