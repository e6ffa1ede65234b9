"""What batches without files and names share: the search back to a time."""

from datetime import UTC, datetime, timedelta

import pytest

from proxy.core.errors import ProviderUnavailableError
from proxy.core.upstream import Upstream
from proxy.ports.provider import ProviderBatch, ProviderBatchState, Submission
from proxy.providers import inline
from proxy.providers.inline import InlineBatches
from proxy.providers.inputs import Input, json_input
from proxy.upstreams.aiohttp_client import AiohttpClient
from tests.providers.kit import (
    MachineClock,
    batch_api,
    client_tasks,
    make_batch_id,
    make_credential,
)

T0 = datetime(2026, 11, 23, 12, tzinfo=UTC)


def entry(number: int, minutes: int) -> dict[str, object]:
    return {"id": f"b-{number}", "at": (T0 - timedelta(minutes=minutes)).isoformat()}


class Batches(InlineBatches):
    path = "/v1/b"
    member = b"body"
    cursor = "after"

    def _input(self, submission: Submission) -> Input:
        return json_input(submission, b"[", b"]")

    def _read(self, value: object) -> ProviderBatch | None:
        if not isinstance(value, dict) or "at" not in value:
            return None
        return ProviderBatch(
            id=value["id"],
            state=ProviderBatchState.RUNNING,
            status="x",
            created_at=datetime.fromisoformat(value["at"]),
        )


@pytest.fixture
async def found(wire):
    """Search back to half an hour before `T0`; return IDs."""
    async with client_tasks() as tasks:
        client = AiohttpClient(tasks)
        upstream = Upstream.parse("x", "openai", wire.base_url)
        provider = Batches(upstream, batch_api("openrouter"), client, clock=MachineClock())

        async def search() -> list[str]:
            batches = await provider.find_batches(
                make_credential(), make_batch_id(), created_after=T0 - timedelta(minutes=30)
            )
            return [batch.id for batch in batches]

        yield search
        await client.aclose()


async def test_what_is_young_enough_is_found_oldest_first(wire, found):
    wire.answer({"data": [entry(1, 1), {"id": "strange"}, entry(2, 20), entry(3, 31)]})

    assert await found() == ["b-2", "b-1"]
    assert [asked.target for asked in wire.asked] == ["/v1/b?limit=100"]


@pytest.mark.parametrize("says", [{"has_more": True}, {}])
async def test_a_full_page_has_a_next_one_whether_it_says_so_or_not(wire, found, says):
    wire.answer({"data": [entry(n, 1) for n in range(100)], **says})
    wire.answer({"data": [entry(100, 2)]})

    assert len(await found()) == 101
    assert wire.asked[1].target == "/v1/b?limit=100&after=b-99"


async def test_pages_older_than_asked_for_are_not_read(wire, found):
    wire.answer({"data": [entry(1, 1), entry(2, 40)], "has_more": True})

    assert await found() == ["b-1"]
    assert len(wire.asked) == 1


async def test_a_list_in_another_order_is_read_to_its_end(wire, found):
    wire.answer({"data": [entry(3, 50), entry(2, 40)], "has_more": True})
    wire.answer({"data": [entry(1, 1)], "has_more": False})

    assert await found() == ["b-1"]


async def test_a_list_that_cannot_be_read_to_its_end_proves_nothing(wire, found, monkeypatch):
    monkeypatch.setattr(inline, "LIST_PAGES_MAX", 2)
    for _ in range(2):
        wire.answer({"data": [entry(n, 1) for n in range(100)], "has_more": True})
    with pytest.raises(ProviderUnavailableError):
        await found()

    wire.answer({"nothing": True})
    with pytest.raises(ProviderUnavailableError):
        await found()
