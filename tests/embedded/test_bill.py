"""The bill names what happened, what is not known, and nothing that did not happen."""

import io
import json

from proxy.core.ledger import Sums
from proxy.embedded.bill import Bill, print_bill

HALF = Sums(jobs=500, answers=500, list_nano=20_000_000, paid_nano=10_000_000)
FULL = Sums(jobs=3, answers=3, list_nano=120_000, paid_nano=120_000)


def printed(bill, **options):
    stream = io.StringIO()
    print_bill(bill, stream, **({"as_json": False} | options))
    return stream.getvalue()


def test_every_lane_has_its_price_and_all_of_them_a_sum():
    text = printed(Bill(lanes={"batch": HALF, "interactive": FULL}, prices_as_of="2026-11-20"))

    rows = [" ".join(row.split()) for row in text.splitlines()]
    assert rows == [
        "offramp: the bill calls as ordinary calls paid saved",
        "in batches 500 $0.0200 $0.0100 $0.0100",
        "called directly 3 $0.0001 $0.0001 $0.0000",
        "in all 503 $0.0201 $0.0101 $0.0100",
        "estimated by list prices of 2026-11-20",
    ]


def test_half_of_a_small_bill_looks_like_half():
    dozen = Sums(jobs=12, answers=12, list_nano=333_600, paid_nano=166_800)

    assert "$0.000334  $0.000167  $0.000167" in printed(Bill(lanes={"batch": dozen}))


def test_a_price_that_is_not_known_is_no_zero():
    text = printed(Bill(lanes={"batch": Sums(jobs=2, answers=2, unpriced=2)}))

    assert "unknown" in text
    assert "$0" not in text
    assert "2 answers without a known price" in text
    assert "estimated" not in text


def test_what_failed_was_in_vain_or_maybe_twice_is_told():
    sums = Sums(jobs=3, answers=2, useless=1, useless_nano=5_000_000, possible_doubles=4)
    sums = sums._replace(possible_nano=7_000_000)
    text = printed(Bill(lanes={"batch": sums}, forwarded=7))

    assert "1 call failed" in text
    assert "1 answer bought in vain, for $0.0050" in text
    assert "4 calls possibly bought twice, for at most $0.0070" in text
    assert "7 calls could not be deferred" in text


def test_where_nothing_was_deferred_no_table_of_nothing_is_shown():
    text = printed(Bill(lanes={}, forwarded=1))

    assert text.split("\n")[:2] == [
        "offramp: no call was deferred",
        "1 call could not be deferred and went straight through",
    ]


def test_possible_doubles_without_a_price_are_not_shown_as_free():
    some = Sums(jobs=1, possible_doubles=3, possible_nano=5_000_000, possible_unpriced=2)
    all_of_them = Sums(jobs=1, possible_doubles=3, possible_unpriced=3)

    assert "for at most $0.0050 (2 of them: unknown)" in printed(Bill(lanes={"batch": some}))
    text = printed(Bill(lanes={"batch": all_of_them}))
    assert "3 calls possibly bought twice, for what is not known" in text


def test_known_money_is_shown_beside_as_many_answers_without_a_price():
    sums = Sums(
        jobs=2, answers=1, list_nano=20_000_000, paid_nano=10_000_000, useless=1, unpriced=1
    )

    assert "$0.0200" in printed(Bill(lanes={"batch": sums}))


def test_without_calls_there_is_no_bill():
    assert printed(Bill()) == ""


def test_it_fits_a_terminal_of_80():
    assert max(map(len, printed(Bill(lanes={"batch": HALF, "flex": FULL})).splitlines())) <= 79


def test_machines_get_one_line():
    text = printed(Bill(lanes={"batch": HALF}), as_json=True)

    assert text.count("\n") == 1
    content = json.loads(text)
    assert content["lanes"] == {"batch": 500}
    assert content["saved_usd"] == 0.01


def test_a_loss_is_told_as_people_write_it():
    loss = Sums(jobs=1, useless=1, useless_nano=2_000_000)

    assert "-$0.0020" in printed(Bill(lanes={"batch": loss}))
