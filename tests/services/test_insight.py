"""What operators are shown is what the stores hold, and neither prompt nor credential."""

from dataclasses import replace
from datetime import timedelta

import pytest

from policies.conditions import Divert, Rule
from policies.policy import Policy
from policies.rules import RuleSet
from proxy.core.batch import BatchState
from proxy.core.ids import CredentialId
from proxy.core.ledger import Booking, LedgerKey, Receipt, Sums
from proxy.core.turnaround import USUAL_BATCH
from proxy.services.insight import DAYS, Insight, counts_of
from proxy.telemetry import Metrics
from tests.helpers.factories import IDS, T0, make_batch, new_job
from tests.helpers.fleet import Fleet

MINUTE = timedelta(minutes=1)


class World:
    def __init__(self, policy=None):
        self.fleet = Fleet()
        self.metrics = Metrics(strict=True)
        self.stores = self.fleet.stores
        self.insight = Insight(
            self.fleet.instances[0].ground,
            ledger=self.stores.ledger,
            counts=counts_of(self.metrics),
            expects=lambda _key, _at: USUAL_BATCH,
            policy=policy,
            webhooks=["done"],
        )

    async def accepted(self, **changes):
        return (await self.stores.jobs.accept(new_job(**changes))).job

    async def booked(self, *, days_ago=0, owner="owner-1", rule="header", lane="batch", **sums):
        key = LedgerKey(
            day=(T0 - timedelta(days=days_ago)).date(),
            lane=lane,
            upstream="openai",
            owner=owner,
            rule=rule,
        )
        receipt = Receipt(id=IDS.job(), job_id=IDS.job(), bookings=(Booking(key, Sums(**sums)),))
        assert await self.stores.ledger.book([receipt]) == {receipt.id}


async def test_a_fresh_install_is_empty_and_the_first_job_ends_that():
    here = World()
    assert (await here.insight.overview()).is_empty

    await here.accepted()
    assert not (await here.insight.overview()).is_empty


async def test_money_is_summed_by_day_lane_and_rule_and_every_day_has_its_place():
    here = World()
    await here.booked(jobs=3, list_nano=30, paid_nano=15)
    await here.booked(days_ago=2, jobs=1, list_nano=8, paid_nano=8, lane="interactive")
    await here.booked(days_ago=DAYS + 5, jobs=9, list_nano=99)

    money = await here.insight.money()

    assert len(money.days) == DAYS
    assert list(money.days)[-1] == str(T0.date())
    assert [sums.jobs for sums in money.days.values()][-3:] == [1, 0, 3]
    assert (money.total.jobs, money.total.saved_nano) == (4, 15)
    assert {place: sums.jobs for place, sums in money.models.items()} == {("openai", ""): 4}
    assert {lane: sums.jobs for lane, sums in money.lanes.items()} == {
        "batch": 3,
        "interactive": 1,
    }


async def test_the_overview_tells_of_paused_credentials_missed_deadlines_and_webhooks():
    here = World()
    await here.fleet.add_credential()
    await here.stores.credentials.pause(
        CredentialId("credential-1"), at=T0, status=401, body=b"secret refusal"
    )
    here.metrics.count("deadline_missed", 2, cause="in_flight")
    here.metrics.gauge("policies_refused", 1)
    here.fleet.instances[0].ground.troubles.note("openai", TimeoutError("timed out"), at=T0)

    seen = await here.insight.overview()

    assert [one.id for one in seen.paused] == ["credential-1"]
    assert seen.missed == {"in_flight": 2}
    assert seen.policies_refused
    assert seen.silent == {"openai": T0}
    assert list(seen.webhooks) == ["done"]


async def test_the_overview_tells_of_a_store_that_takes_nothing_that_is_written():
    here = World()
    leases = here.fleet.instances[0].ground.leases
    await leases.run_once()
    assert (await here.insight.overview()).takes_writes

    here.fleet.clock.advance(seconds=leases.ttl.total_seconds() + 1)
    assert not (await here.insight.overview()).takes_writes


async def test_a_job_comes_with_its_batch():
    here = World()
    (job_id,) = await here.fleet.submit(1)

    found = await here.insight.job(job_id)

    assert found is not None
    job, batch = found
    assert batch is not None
    assert (job.id, job.batch_id) == (job_id, batch.id)
    assert await here.insight.job(IDS.job()) is None
    assert await here.insight.job("../../etc/passwd") is None


async def test_a_batch_is_found_by_its_id_and_by_the_providers():
    here = World()
    batch = make_batch(provider_batch_id="batch_abc", state=BatchState.IN_PROGRESS)
    await here.stores.batches.add(batch)

    assert await here.insight.batch(batch.id) == batch
    assert await here.insight.batch("batch_abc") == batch
    assert await here.insight.batch("batch_other") is None


@pytest.mark.parametrize(("share", "minutes"), [(0.0, 1), (0.5, 3), (0.9, 5), (1.0, 5)])
async def test_turnarounds_are_of_batches_that_came_to_their_end_by_themselves(share, minutes):
    here = World()
    words = ("completed", "ended", "success", "BATCH_STATE_SUCCEEDED", "completed")
    for n, said in zip((3, 1, 5, 2, 4), words, strict=True):
        ended = {"submitted_at": T0, "ended_at": T0 + n * MINUTE, "end_reason": said}
        await here.stores.batches.add(make_batch(**ended))
    for word in ("cancelled", "unended", "JOB_STATE_EXPIRED", "unreached", None):
        await here.stores.batches.add(make_batch(submitted_at=T0, ended_at=T0, end_reason=word))
    stopped = {"submitted_at": T0, "ended_at": T0, "cancelled_at": T0, "end_reason": "ended"}
    await here.stores.batches.add(make_batch(**stopped))
    await here.stores.batches.add(make_batch(submitted_at=T0))

    (seen,) = await here.insight.turnarounds()

    assert (len(seen.took), seen.last_ended_at) == (5, T0 + 5 * MINUTE)
    assert seen.quantile(share) == minutes * MINUTE


async def test_rules_show_live_and_shadow_beside_each_other_in_their_order():
    rules = [Rule(name="etl", then=Divert()), Rule(name="evals", then=Divert(), shadow=True)]
    policy = Policy(RuleSet(rules))
    here = World(policy=lambda: policy)
    here.metrics.count("rule_matched", 3, rule="etl", mode="live", decision="defer")
    here.metrics.count("rule_matched", 7, rule="evals", mode="shadow", decision="defer")
    here.metrics.count("rule_forwarded", 2, rule="etl", reason="too_many_jobs")
    await here.booked(rule="rule:etl", jobs=1, list_nano=4, paid_nano=2)

    etl, evals = await here.insight.rules() or ()

    assert (etl.rule.name, etl.live, etl.shadow, etl.forwarded) == ("etl", 3, 0, 2)
    assert (etl.booked.jobs, etl.booked.saved_nano) == (1, 2)
    assert (evals.rule.name, evals.live, evals.shadow) == ("evals", 0, 7)


async def test_without_a_rule_file_there_are_no_rules_to_show():
    assert await World().insight.rules() is None


async def test_what_is_shown_of_a_credential_has_no_token():
    here = World()
    await here.fleet.add_credential()
    await here.stores.credentials.pause(CredentialId("credential-1"), at=T0, status=401, body=None)

    (shown,) = (await here.insight.overview()).paused

    assert "Bearer" not in repr(replace(shown))
