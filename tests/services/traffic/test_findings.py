"""What an audit adds up, and what it shows to be pasted."""

from datetime import timedelta

from proxy.core.audit import Arrival, Opinion
from proxy.core.prices import Cost
from proxy.services.traffic.diversions import Diversion
from proxy.services.traffic.findings import Audit, Call, Money, Proposal, Segment, SegmentKey, total
from tests.helpers.factories import T0

KEY = SegmentKey("openai", "/v1/x", "etl/*", "c1", "m")


def call(cost: Cost | None) -> Call:
    return Call(
        segment=KEY,
        arrival=Arrival(T0, timedelta(seconds=1)),
        can_defer=True,
        undecided=True,
        shadow=None,
        tokens=10,
        cost=cost,
    )


def proposal(name: str, *, also_matches: int = 0) -> Proposal:
    diversion = Diversion(
        name=name, upstream="openai", path="/v1/x", models=("m",), user_agent="etl/*"
    )
    segment = Segment(KEY, False, Opinion(True, ("at night",)), Money())
    return Proposal(diversion, (segment,), Money(), also_matches)


def audit(*proposals: Proposal) -> Audit:
    return Audit(
        calls=1,
        unreadable=0,
        begun=T0,
        ended=T0 + timedelta(days=7),
        segments=(),
        proposals=proposals,
    )


def test_a_call_without_a_price_is_counted_and_in_no_amount() -> None:
    money = Money()
    for one in (call(Cost(1_000, 400)), call(None)):
        money.add(one)

    assert money == Money(calls=2, priced=1, tokens=20, list_nano=1_000, batch_nano=400)
    assert money.saved_nano == 600
    assert total([money, money]) == Money(4, 2, 40, 2_000, 800)


def test_a_rule_that_takes_others_calls_is_not_among_those_to_paste() -> None:
    found = audit(proposal("good"), proposal("wrong", also_matches=3))

    assert "good" in found.rules
    assert "wrong" not in found.rules


def test_a_record_is_as_long_as_from_its_first_call_to_its_last() -> None:
    assert audit().span == timedelta(days=7)
    assert audit().rules == ""
