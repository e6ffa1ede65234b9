"""How fast direct calls may begin."""

from proxy.core.ids import CredentialId
from proxy.core.lanes import Lane
from proxy.services.direct.caps import Rate
from proxy.services.pauses import REMEMBERED

ONE = (Lane.INTERACTIVE, CredentialId("credential-1"))
OTHER = (Lane.INTERACTIVE, CredentialId("credential-2"))


def test_a_second_of_calls_may_begin_at_once_and_then_so_many_a_second():
    rate = Rate()

    assert rate.left(ONE, 10.0, 0.0) == 10
    for _ in range(10):
        rate.spend(ONE)

    assert rate.left(ONE, 10.0, 0.0) == 0
    assert rate.left(ONE, 10.0, 0.5) == 5
    assert rate.left(ONE, 10.0, 1_000.0) == 10
    assert rate.left(OTHER, 10.0, 0.5) == 10


def test_what_is_kept_of_the_uses_of_lanes_is_bounded():
    rate = Rate()
    rate.left(ONE, 1.0, 0.0)
    rate.spend(ONE)
    for number in range(REMEMBERED):
        rate.left((Lane.FLEX, CredentialId(str(number))), 1.0, 0.0)

    # Forgotten, it may begin at once as at first.
    assert rate.left(ONE, 1.0, 0.0) == 1


def test_a_slow_rate_still_lets_one_call_begin():
    rate = Rate()
    assert rate.left(ONE, 0.1, 0.0) == 1
    rate.spend(ONE)

    assert rate.left(ONE, 0.1, 9.0) == 0
    assert rate.left(ONE, 0.1, 10.1) == 1
