"""How long Redis keeps what nobody prunes."""

from datetime import timedelta

import pytest

from proxy.app.machine import task_group
from proxy.core.ids import shard_for
from proxy.stores.redis import RedisStores, jobs, keys
from proxy.stores.redis.job_calls import call_digest
from tests.helpers.factories import IDS, T0, make_job, new_job
from tests.helpers.redis_server import STORE_KEYS, RedisServer

pytestmark = pytest.mark.redis

DAY = timedelta(days=1)
WEEK = 7 * DAY
MINUTE_S = 60


async def test_a_pointer_to_a_job_of_another_shard_outlives_no_job_by_months(
    server: RedisServer,
) -> None:
    server.admin.flushall()
    home = shard_for(make_job().fingerprint)

    async def accept(stores: RedisStores, *, pending: timedelta) -> int:
        """Accept an equal call in another shard; return how long the pointer lasts."""
        job = make_job(id=IDS.job(shard=(home + 1) % 64), deadline=T0 + pending)
        await stores.jobs.accept(new_job(job))
        return server.admin.ttl(keys.elsewhere(home, call_digest(job.owner, job.fingerprint)))

    async with task_group() as tasks:
        stores = await RedisStores.open(server.url, STORE_KEYS, tasks, results=WEEK)
        lasts = [await accept(stores, pending=pending) for pending in (DAY, 3 * DAY, DAY)]
        await stores.aclose()

    first, longest = (
        (pending + WEEK + jobs.LATE_AT_MOST).total_seconds() for pending in (DAY, 3 * DAY)
    )
    assert lasts == pytest.approx([first, longest, longest], abs=MINUTE_S)
