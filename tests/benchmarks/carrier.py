"""A batch on its way through one instance; run as a program, prints JSON step by step.

In a process of its own, so that its memory is seen and nobody else's, and beside a
provider in another. It waits for a line on its input before it reads the results.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Final

from proxy.app import SystemClock
from proxy.core.batch import advance
from proxy.core.batch_events import Sealed
from proxy.core.dialects import DIALECTS
from proxy.core.ids import RANDOM_BYTES, InstanceId, mint_job_id
from proxy.core.plan import PollPace
from proxy.core.upstream import Upstream
from proxy.ports.batches import Claimed, ClaimLimits
from proxy.ports.jobs import NewJob
from proxy.ports.provider import Submission
from proxy.providers.openai_family import OpenAIBatches
from proxy.runtime import share_fairly, spare_garbage
from proxy.services.access import Access
from proxy.services.batches.ingest import Ingested, Ingestor
from proxy.services.batches.steps import SubmitTimes
from proxy.services.batches.submit import Submitter
from proxy.services.ground import Ground
from proxy.services.leases import Leases
from proxy.services.waiters import Waiters
from proxy.stores.sqlite import SqliteStores
from proxy.stores.vault import Vault
from proxy.telemetry import Metrics, set_up_logging
from tests.benchmarks.load import Watch
from tests.helpers.books import make_books
from tests.helpers.factories import make_batch, make_credential, make_job
from tests.helpers.outlook import make_outlook

CALLERS: Final = 64
VAULT: Final = Vault(keys=[b"k" * 32], hash_key=b"h" * 32)
PROMPT: Final = " ".join(os.urandom(3).hex() for _ in range(270))
BODY: Final = json.dumps(
    {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": PROMPT}]}
).encode()


class Carrier:
    """One instance's services, as far as they carry a batch."""

    def __init__(self, stores: SqliteStores, base_url: str) -> None:
        self.clock = clock = SystemClock()
        self.stores = stores
        upstream = Upstream.parse("openai", "openai", base_url)
        api = DIALECTS["openai"].batch
        assert api is not None
        self.provider = OpenAIBatches(upstream, api, clock=clock)
        leases = Leases(
            store=stores.leases,
            clock=clock,
            instance=InstanceId("carrier"),
            ttl=timedelta(seconds=60),
        )
        ground = Ground(
            jobs=stores.jobs,
            queue=stores.queue,
            deliveries=stores.deliveries,
            credentials=stores.credentials,
            batches=stores.batches,
            notices=stores.notices,
            clock=clock,
            leases=leases,
            books=make_books(stores.ledger, clock, Metrics()),
            tally=Metrics(),
        )
        access = Access(
            providers={"openai": self.provider},
            credentials=stores.credentials,
            clock=clock,
            tally=ground.tally,
        )
        outlook = make_outlook(stores, clock, self.provider)
        self.submitter = Submitter(
            ground, access=access, times=SubmitTimes(), outlook=outlook, pace=PollPace()
        )
        waiters = Waiters(jobs=stores.jobs, clock=clock)
        self.ingestor = Ingestor(ground, access=access, outlook=outlook, waiters=waiters)
        self.batch = make_batch(created_at=clock.now())

    async def accept(self, count: int) -> None:
        """Accept so many jobs."""
        left = iter(self._news(count))

        async def caller() -> None:
            for new in left:
                await self.stores.jobs.accept(new)

        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(caller())

    def _news(self, count: int) -> Iterable[NewJob]:
        now = self.clock.now()
        base = make_job(body_bytes=len(BODY), accepted_at=now)
        for number in range(count):
            job_id = mint_job_id(now, shard=0, random=os.urandom(RANDOM_BYTES))
            job = replace(base, id=job_id, affinity=f"{number % 50:016}")
            yield NewJob(job=job, body=BODY, retry_count=0, waiter_until=now)

    async def accept_latency_us(self, samples: int) -> float:
        """Return the median of one caller, alone."""
        taken = []
        for new in self._news(samples):
            started = perf_counter()
            await self.stores.jobs.accept(new)
            taken.append(perf_counter() - started)
        return median(taken) * 1e6

    async def claim(self, count: int) -> tuple[float, float]:
        """Claim `count` jobs; return the seconds in all, and the longest that others waited."""
        await self.stores.batches.add(self.batch)
        waits: list[float] = []
        async with asyncio.TaskGroup() as group:
            beside = group.create_task(self._write_beside(waits))
            started = perf_counter()
            claimed = await self._claim_all(count)
            seconds = perf_counter() - started
            beside.cancel()
        sums = (claimed.count, claimed.body_bytes, claimed.tokens, claimed.nearest_deadline)
        sealed = advance(self.batch, Sealed(*sums))
        assert claimed.count == count
        assert await self.stores.batches.replace(sealed)
        self.batch = sealed
        return seconds, max(waits, default=0.0)

    async def _claim_all(self, count: int) -> Claimed:
        limits = ClaimLimits(max_requests=count, max_bytes=10**12)
        key, ready_at = self.batch.key, self.clock.now()
        while True:
            claimed = await self.stores.batches.claim(key, self.batch.id, limits, ready_at=ready_at)
            if claimed.complete:
                return claimed

    async def _write_beside(self, waits: list[float]) -> None:
        """Write next to nothing, now and then: it takes as long as others hold the store."""
        holder, now = InstanceId("beside"), self.clock.now()
        while True:
            started = perf_counter()
            await self.stores.leases.acquire("beside", holder, now=now, until=now)
            waits.append(perf_counter() - started)
            # Not at every chance: then each of its commits would delay the claim by one.
            await asyncio.sleep(0.005)

    async def submit(self) -> None:
        """Build and upload the batch, and create it at the provider."""
        assert await self.submitter.run_once() == 1
        found = await self.stores.batches.get(self.batch.id)
        assert found is not None
        assert found.provider_batch_id == "batch_1"
        self.batch = found

    async def ingest(self, count: int) -> None:
        """Read the results of all jobs."""
        sums = Ingested()
        lines = self.provider.results(make_credential(), "file-out")
        await self.ingestor.ingest(self.batch, lines, sums, source="file-out")
        assert sums.ended == count, sums


def tell(**facts: float) -> None:
    """Print what was measured in this step."""
    print(json.dumps(facts), flush=True)


async def main(folder: Path, base_url: str, count: int, pending: int) -> None:
    share_fairly()
    stores = await SqliteStores.open(folder / "offramp.db", VAULT)
    carrier = Carrier(stores, base_url)
    spare_garbage()
    await stores.credentials.remember(make_credential())
    await carrier.accept(min(1_000, count))
    few_us = await carrier.accept_latency_us(min(300, count))
    await carrier.accept(count - min(1_000, count))
    claim_s, hold_s = await carrier.claim(count)
    tell(claim_ms=claim_s * 1e3, claim_hold_ms=hold_s * 1e3)

    # The import of the client is paid once, whatever is done afterwards.
    await carrier.provider.find_upload(make_credential(), _empty(carrier))
    upload = await Watch().over(carrier.submit)
    tell(upload_s=upload.seconds, upload_mb=upload.growth_mb, upload_stall_ms=upload.stall_s * 1e3)

    await asyncio.to_thread(sys.stdin.readline)
    idle = await Watch().over(lambda: asyncio.sleep(min(2.0, upload.seconds)))
    cpu = process_time()
    ingest = await Watch().over(lambda: carrier.ingest(count))
    tell(
        ingest_s=ingest.seconds,
        ingest_cpu_us=(process_time() - cpu) / count * 1e6,
        ingest_mb=ingest.growth_mb,
        ingest_stall_ms=ingest.stall_s * 1e3,
        idle_stall_ms=idle.stall_s * 1e3,
    )

    await carrier.accept(pending)
    many_us = await carrier.accept_latency_us(min(300, count))
    tell(accept_few_us=few_us, accept_many_us=many_us)
    await carrier.provider.aclose()
    await stores.aclose()


def _empty(carrier: Carrier) -> Submission:
    async def lines() -> AsyncIterator[bytes]:
        yield b""

    batch = carrier.batch
    return Submission(
        batch_id=batch.id,
        endpoint=batch.key.endpoint,
        model=batch.key.model,
        headers=(),
        count=0,
        input_bytes=0,
        lines=lines,
    )


if __name__ == "__main__":
    set_up_logging(level="warning", form="json")
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
