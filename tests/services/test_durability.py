from structlog.testing import capture_logs

from proxy.ports.stores import Durability
from proxy.services.durability import DurabilityWatch

KEPT = Durability("fsync always", is_durable=True)
LOST = Durability("memory only", is_durable=False)


async def test_what_a_store_ceases_to_promise_is_told_once_and_promised_no_more():
    found = iter([KEPT, LOST, LOST, KEPT])

    async def ask() -> Durability:
        return next(found)

    watch = DurabilityWatch(KEPT, ask)
    with capture_logs() as logs:
        moved = [(await watch.run_once(), watch.known) for _ in range(4)]

    assert moved == [(0, KEPT), (1, LOST), (0, LOST), (1, KEPT)]
    assert [(one["event"], one["log_level"], one["durability"]) for one in logs] == [
        ("store.doubted", "warning", "memory only"),
        ("store.trusted", "info", "fsync always"),
    ]
    assert "appendfsync always" in logs[0]["hint"]


async def test_a_store_that_promises_too_little_from_the_start_is_told_of():
    with capture_logs() as logs:
        watch = DurabilityWatch(LOST)

    assert [one["event"] for one in logs] == ["store.doubted"]
    assert await watch.run_once() == 0
    assert watch.known == LOST
