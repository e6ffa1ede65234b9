from dataclasses import dataclass

import pytest

from proxy.ports.upstream import ClientLimits, Phase
from proxy.upstreams.timeouts import Timeouts

LIMITS = ClientLimits(first_byte_s=10, idle_s=100)


@dataclass
class Line:
    reading_paused: bool = False
    writing_paused: bool = False
    unsent: int = 0

    def unsent_bytes(self) -> int:
        return self.unsent


def phase_at(timeouts: Timeouts, now: float, line: Line, **state: bool) -> Phase | None:
    overdue = timeouts.overdue(now, line, **{"sent_all": True, "headed": False, **state})
    return overdue[1] if overdue is not None else None


@pytest.mark.parametrize(
    ("headed", "limit", "phase"), [(False, 10, Phase.FIRST_BYTE), (True, 100, Phase.IDLE)]
)
def test_silence_is_overdue_after_its_limit_and_not_before(headed, limit, phase):
    timeouts, line = Timeouts(LIMITS), Line()
    assert phase_at(timeouts, 1000, line, headed=headed) is None

    assert phase_at(timeouts, 1000 + limit, line, headed=headed) is None
    assert phase_at(timeouts, 1001 + limit, line, headed=headed) is phase


def test_what_is_heard_begins_the_time_anew():
    timeouts, line = Timeouts(LIMITS), Line()
    phase_at(timeouts, 0, line)
    timeouts.heard = True
    assert phase_at(timeouts, 9, line) is None

    assert phase_at(timeouts, 19, line) is None
    assert phase_at(timeouts, 20, line) is Phase.FIRST_BYTE


def test_an_upstream_that_waits_for_us_is_not_silent():
    timeouts = Timeouts(LIMITS)
    for now in range(0, 1000, 50):
        assert phase_at(timeouts, now, Line(reading_paused=True), headed=True) is None
    for now in range(1000, 2000, 50):
        assert phase_at(timeouts, now, Line(), sent_all=False) is None


def test_an_upstream_may_take_a_body_slowly_and_must_take_some():
    timeouts, line = Timeouts(LIMITS), Line(writing_paused=True, unsent=1000)
    for now in range(0, 900, 90):
        line.unsent -= 1
        assert phase_at(timeouts, now, line, sent_all=False) is None

    assert phase_at(timeouts, 900, line, sent_all=False) is None
    assert phase_at(timeouts, 1001, line, sent_all=False) is Phase.UPLOAD
