import structlog

from proxy.core.batch import BatchState
from tests.helpers.factories import CREDENTIAL, make_batch, make_key
from tests.helpers.fleet import Fleet


async def test_batches_of_an_upstream_that_only_others_know_are_left_to_them_and_told_of_once():
    fleet = Fleet()
    key = make_key(upstream="new", credential=CREDENTIAL)
    sealed = make_batch(key=key, state=BatchState.SEALED)
    sent = make_batch(key=key, state=BatchState.IN_PROGRESS, provider_batch_id="batch_1")
    for batch in (sealed, sent):
        await fleet.stores.batches.add(batch)

    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            await fleet.run("submit", "collect")
            fleet.clock.advance(seconds=1)

    told = [line for line in logs if line["event"] == "batch.stranded"]
    assert {(line["batch_id"], line["upstream"]) for line in told} == {
        (sealed.id, "new"),
        (sent.id, "new"),
    }
    assert len(told) == 2
    assert all("configure it again" in line["hint"] for line in told)
    found = {one.id: one.version for one in await fleet.stores.batches.recent(limit=9)}
    assert found == {one.id: one.version for one in (sealed, sent)}
