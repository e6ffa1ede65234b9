"""What waits, as the metrics show it."""

from datetime import timedelta

from proxy.core.ids import JobId
from proxy.core.job import Succeeded, advance
from proxy.core.ledger import Booking, LedgerKey, Receipt, Sums
from proxy.core.prices import NANO
from proxy.ports.jobs import JobWrite
from proxy.telemetry import Metrics
from proxy.web.answering.holding import Holding
from proxy.web.operators.gauges import Gauges
from tests.contract.steps import OK
from tests.helpers.factories import CREDENTIAL, T0, make_credential, new_job
from tests.helpers.fleet import Fleet


def gauges(fleet: Fleet, metrics: Metrics) -> Gauges:
    holding = Holding(deliveries=fleet.stores.deliveries, clock=fleet.clock, max_held=9)
    return Gauges(
        fleet.instances[0].ground,
        metrics,
        holding,
        ledger=fleet.stores.ledger,
        webhooks=["done", "idle"],
    )


async def test_the_queue_the_paused_credentials_and_what_webhooks_are_owed_are_shown():
    fleet, metrics = Fleet(), Metrics(strict=True)
    await fleet.stores.credentials.remember(make_credential())
    await fleet.stores.credentials.pause(CREDENTIAL, at=T0, status=401, body=None)
    await fleet.stores.jobs.accept(new_job())
    job = (await fleet.stores.jobs.accept(new_job(webhook="done"))).job
    await fleet.stores.jobs.replace_many([JobWrite(advance(job, Succeeded(0, T0, OK)))])

    await gauges(fleet, metrics).run_once()

    assert metrics.value("queued_jobs", upstream="openai", lane="batch") == 1
    assert metrics.value("credentials_paused") == 1
    assert metrics.value("tasks") >= 1
    assert metrics.value("webhook_pending", webhook="done") == 1
    assert metrics.value("webhook_pending", webhook="idle") == 0
    assert metrics.value("webhook_undelivered", webhook="done") == 0


async def test_what_is_gone_is_shown_as_gone():
    fleet, metrics = Fleet(), Metrics(strict=True)
    job = (await fleet.stores.jobs.accept(new_job(webhook="done"))).job
    await gauges(fleet, metrics).run_once()
    await fleet.stores.jobs.replace_many([JobWrite(advance(job, Succeeded(0, T0, OK)))])
    (notice,) = await fleet.stores.notices.take("done", now=T0, until=T0, limit=1)
    await fleet.stores.notices.failed(notice, at=T0, failure="HTTP 500", again_at=None)

    await gauges(fleet, metrics).run_once()

    assert metrics.value("queued_jobs", upstream="openai", lane="batch") == 0
    assert metrics.value("webhook_pending", webhook="done") == 0
    assert metrics.value("webhook_undelivered", webhook="done") == 1


async def test_money_is_that_of_today_by_lane():
    fleet, metrics = Fleet(), Metrics(strict=True)
    for days_ago, lane in ((0, "batch"), (0, "flex"), (1, "batch")):
        key = LedgerKey(day=(T0 - timedelta(days=days_ago)).date(), lane=lane)
        sums = Sums(
            list_nano=4 * NANO,
            paid_nano=2 * NANO,
            possible_nano=NANO,
            possible_unpriced=2,
            unpriced=3,
        )
        receipt = Receipt(
            id=f"{lane}-{days_ago}", job_id=JobId("job"), bookings=(Booking(key, sums),)
        )
        await fleet.stores.ledger.book([receipt])

    await gauges(fleet, metrics).show_money()

    assert metrics.value("today_usd", lane="batch", amount="list") == 4
    assert metrics.value("today_usd", lane="batch", amount="paid") == 2
    assert metrics.value("today_usd", lane="flex", amount="possible") == 1
    assert metrics.value("today_usd", lane="flex", amount="useless") == 0
    assert metrics.value("today_unpriced") == 6
    assert metrics.value("today_possible_unpriced") == 4


async def test_a_new_day_begins_at_zero():
    fleet, metrics = Fleet(), Metrics(strict=True)
    key = LedgerKey(day=T0.date(), lane="batch")
    receipt = Receipt(id="r", job_id=JobId("job"), bookings=(Booking(key, Sums(list_nano=NANO)),))
    await fleet.stores.ledger.book([receipt])
    await gauges(fleet, metrics).show_money()

    fleet.clock.advance(days=1)
    await gauges(fleet, metrics).show_money()

    assert metrics.value("today_usd", lane="batch", amount="list") == 0
