"""The bill names what happened, and nothing that did not."""

import io
import json

from proxy.embedded.bill import Bill, print_bill


def printed(bill, **options):
    stream = io.StringIO()
    print_bill(bill, stream, **({"as_json": False} | options))
    return stream.getvalue()


def test_calls_are_counted_by_the_way_they_were_answered():
    text = printed(Bill(lanes={"batch": 1200, "interactive": 3}, forwarded=2, failed=1))

    rows = [row.split() for row in text.splitlines()[1:]]
    assert rows == [
        ["in", "batches", "1,200"],
        ["called", "directly", "3"],
        ["not", "deferred", "2"],
        ["failed", "1"],
    ]


def test_what_may_have_been_bought_twice_is_never_hidden():
    assert "possibly bought twice" in printed(Bill(possible_doubles=1))


def test_without_calls_there_is_no_bill():
    assert printed(Bill()) == ""


def test_machines_get_one_line():
    text = printed(Bill(lanes={"batch": 2}), as_json=True)

    assert text.count("\n") == 1
    assert json.loads(text)["lanes"] == {"batch": 2}
