"""The soak runs to its end; how much it finds depends on how long it runs."""

import pytest

from tests.benchmarks.soak import BROKEN, KINDS, Footprint, main, slope_mb_per_hour


def test_a_few_seconds_of_everything_leave_nothing_behind(capfd):
    code = main(["--smoke"])

    told = capfd.readouterr()
    assert code == 0, told.err
    assert all(kind.name in told.out for kind in KINDS)
    assert "memory after the warm-up" in told.out


def look(at_s: float, memory_mb: float = 50, **other: int) -> Footprint:
    return Footprint(
        at_s=at_s, memory_mb=memory_mb, **{"files": 20, "tasks": 9, "threads": 5} | other
    )


def test_memory_is_judged_by_what_comes_after_the_warm_up():
    warming = [look(at, 30 + at) for at in (0.0, 10, 20)]
    steady = [look(at, 60 + at / 3600) for at in (30.0, 50, 70, 90)]

    assert slope_mb_per_hour([*warming, *steady, look(99, 10)]) == pytest.approx(1, abs=0.01)


def test_what_is_left_over_is_told_and_what_pools_keep_is_not():
    before = look(0)

    assert look(9, files=30, tasks=12).exceeds(before) == []
    assert look(9, files=80).exceeds(before) == ["files: 20 before, 80 after"]
    assert BROKEN < 0
