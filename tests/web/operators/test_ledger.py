"""The ledger as operators read it."""

from datetime import timedelta

import pytest

from proxy.core.ledger import Booking, LedgerKey, Sums
from tests.helpers.factories import T0
from tests.web.operators.test_admin import TOKEN, Facts, bearer, listener, status_of

TODAY = T0.date()
SOME = Sums(
    jobs=3,
    expired=1,
    answers=2,
    input_tokens=300,
    cached_tokens=64,
    output_tokens=20,
    list_nano=4_000_000_000,
    paid_nano=2_000_000_000,
    cache_lost_nano=10_000_000,
    escalated=1,
    escalated_nano=500_000_000,
    unpriced=1,
    useless=1,
    useless_nano=250_000_000,
    possible_doubles=2,
    possible_nano=1_000_000_000,
    possible_unpriced=1,
)


def facts(*rows: Booking) -> Facts:
    made = Facts()
    made.booked = list(rows)
    return made


def row(sums: Sums = SOME, *, days_ago: int = 0, **key: str) -> Booking:
    return Booking(LedgerKey(day=TODAY - timedelta(days=days_ago), **key), sums)


async def asked(made: Facts, **query: str):
    async with listener(made) as client, client.get("/ledger", params=query) as response:
        return response.status, await response.json()


async def test_the_total_says_what_was_saved_and_what_was_lost():
    status, page = await asked(facts(row(model="gpt-5"), row(tag="team=etl")))

    assert status == 200
    assert (page["since"], page["until"]) == ("2026-10-25", "2026-11-23")
    assert page["prices"] == {"as_of": "2026-11-26", "source": "a test"}
    assert page["rows"] == []
    assert page["total"] == {
        "jobs": 3,
        "expired": 1,
        "answers": 2,
        "unpriced": 1,
        "tokens": {"input": 300, "cached": 64, "output": 20},
        "list_usd": 4.0,
        "paid_usd": 2.0,
        "saved_usd": 1.75,
        "useless": {"answers": 1, "usd": 0.25},
        "escalated": {"answers": 1, "usd": 0.5},
        "cache_lost_usd": 0.01,
        "possible_doubles": {"attempts": 2, "usd": 1.0, "unpriced": 1},
    }


async def test_it_is_broken_down_the_dearest_first():
    cheap = Sums(jobs=1, list_nano=1)

    _, page = await asked(
        facts(
            row(model="a", sums=cheap), row(model="b", lane="batch"), row(model="b", lane="flex")
        ),
        by="model",
    )

    assert [(one["model"], one["jobs"]) for one in page["rows"]] == [("b", 6), ("a", 1)]


async def test_several_dimensions_make_rows_of_their_own():
    _, page = await asked(
        facts(row(model="a", lane="batch"), row(model="a", lane="flex")), by="lane,model"
    )

    assert page["by"] == ["lane", "model"]
    assert sorted(one["lane"] for one in page["rows"]) == ["batch", "flex"]


async def test_days_outside_are_left_out():
    made = facts(row(days_ago=0), row(days_ago=5), row(days_ago=40))

    _, month = await asked(made)
    _, days = await asked(made, since="2026-11-18", until="2026-11-19", by="day")

    assert month["total"]["jobs"] == 6
    assert [one["day"] for one in days["rows"]] == ["2026-11-18"]


async def test_tags_are_shown_by_themselves():
    made = facts(row(model="a"), row(tag="team=etl"), row(tag="team=web"))

    _, page = await asked(made, by="tag")

    assert [one["tag"] for one in page["rows"]] == ["team=etl", "team=web"]
    assert page["total"]["jobs"] == 3


async def test_the_first_days_that_there_are_can_be_asked_for():
    assert (await asked(facts(), until="0001-01-05"))[1]["since"] == "0001-01-01"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"by": "colour"}, "by must be some of upstream"),
        ({"by": "tag,model"}, "tags have sums of their own"),
        ({"since": "yesterday"}, "since must be a day"),
        ({"since": "20261101"}, "since must be a day"),
        ({"until": "2026-02-30"}, "until must be a day"),
        ({"since": "2026-11-24", "until": "2026-11-01"}, "since must not be after until"),
        ({"since": "1926-11-24"}, "since must not be after until"),
        ({"form": "1"}, "unknown parameter 'form'"),
    ],
)
async def test_a_query_that_makes_no_sense_is_refused_with_what_is_allowed(query, said):
    status, page = await asked(facts(), **query)

    assert status == 400
    assert said in page["error"]["message"]


async def test_it_needs_the_token_where_one_is_set():
    async with listener(facts(), token=TOKEN) as client:
        assert await status_of(client, "GET", "/ledger") == 401
        assert await status_of(client, "GET", "/ledger", headers=bearer(TOKEN)) == 200
