"""The benchmark of the forward path runs to its end; what it measures is nobody's concern here."""

import shutil

import pytest

from tests.benchmarks.forward import LOADS, RATIOS, SMOKE, errors, main, table
from tests.benchmarks.forward_stage import OURS, Seen


@pytest.mark.skipif(shutil.which("gcc") is None, reason="its callers are written in C")
def test_every_proxy_carries_every_load_without_an_error(capfd):
    assert main(["--smoke"]) == 0

    printed = capfd.readouterr().out
    assert all(ratio.what in printed for ratio in RATIOS)
    assert all(f"{load.name:15}{ours:9}" in printed for load in SMOKE for ours in OURS)


def seen(**figures: float) -> Seen:
    plain: dict[str, float] = dict.fromkeys(Seen.__dataclass_fields__, 1)
    return Seen(**{**plain, "errors": 0, **figures})  # type: ignore[arg-type]


def test_a_ratio_compares_the_rounds_pair_by_pair_and_takes_off_what_is_direct():
    runs = {
        (load.name, proxy): [seen(), seen()]
        for load in LOADS
        for proxy in ("direct", "nginx", "naive", *OURS)
    }
    runs["JSON", "naive"] = [seen(cpu_s=4), seen(cpu_s=8)]
    runs["JSON", "lean"] = [seen(cpu_s=1), seen(cpu_s=2)]
    runs["JSON at 200/s", "nginx"] = [seen(latency_p50_us=3)] * 2
    runs["JSON at 200/s", "lean"] = [seen(latency_p50_us=7)] * 2

    printed = table(runs)

    rows = {line[:36].strip(): line.split()[-1] for line in printed.splitlines() if line}
    assert rows["JSON, CPU per call"] == "0.25+"
    assert rows["added p50 at 200/s"] == "3.00!"


def test_a_call_without_an_answer_is_told():
    assert errors({("JSON", "lean"): [seen(errors=2)]}) == ["JSON, lean: 2 errors"]
    assert errors({("JSON", "lean"): [seen(answered=0)]}) == ["JSON, lean: 0 errors"]
    assert errors({("JSON", "lean"): [seen()]}) == []
