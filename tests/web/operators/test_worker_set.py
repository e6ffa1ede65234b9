"""Several workers' metrics make one page; who is not there is left out."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from proxy.telemetry import Metrics, render
from proxy.web.operators import worker_set
from proxy.web.operators.worker_set import SILENT, Workers, merged, states_of

ONE = b"""# HELP offramp_calls_total Calls.
# TYPE offramp_calls_total counter
offramp_calls_total{decision="forward",note="a } b"} 3.0
# HELP up Whether it is up.
# TYPE up gauge
up 1.0
"""
TWO = ONE.replace(b"3.0", b"4.0")


def test_samples_of_one_metric_stand_together_under_one_description():
    assert merged({0: ONE, 2: TWO}).decode().splitlines() == [
        "# HELP offramp_calls_total Calls.",
        "# TYPE offramp_calls_total counter",
        'offramp_calls_total{worker="0",decision="forward",note="a } b"} 3.0',
        'offramp_calls_total{worker="2",decision="forward",note="a } b"} 4.0',
        "# HELP up Whether it is up.",
        "# TYPE up gauge",
        'up{worker="0"} 1.0',
        'up{worker="2"} 1.0',
    ]


def test_a_histogram_stays_one_family():
    page = b'# TYPE h histogram\nh_bucket{le="1"} 1\nh_sum 2\nh_count 1\n'

    assert merged({0: page, 1: page}).count(b"# TYPE") == 1
    assert merged({1: page}).splitlines()[2] == b'h_sum{worker="1"} 2'


async def test_a_worker_without_a_socket_is_left_out(tmp_path: Path):
    assert await Workers([tmp_path / "0.sock"]).ask("/livez") == {}


def metrics_page(**matched: float) -> bytes:
    """Return what a worker shows that matched rules so often."""
    counted = Metrics()
    for rule, times in matched.items():
        counted.count("rule_matched", times, rule=rule, mode="live", decision="defer")
    counted.count("rule_matched", rule='a "b"\\c\nd', mode="shadow", decision="defer")
    counted.gauge("policies_refused", 1)
    return render(counted.snapshot())[0]


async def test_counts_of_all_workers_are_added_up_whatever_their_labels_hold(tmp_path: Path):
    one, two, silent = (tmp_path / name for name in ("0.sock", "1.sock", "2.sock"))
    async with (
        worker(one, 200, metrics_page(etl=2, evals=1)),
        worker(two, 200, metrics_page(etl=3)),
    ):
        counts = await Workers([one, two, silent]).counts(["rule_matched", "policies_refused"])

    assert counts == {
        "rule_matched": {
            ("etl", "live", "defer"): 5,
            ("evals", "live", "defer"): 1,
            ('a "b"\\c\nd', "shadow", "defer"): 2,
        },
        "policies_refused": {(): 2},
    }


@asynccontextmanager
async def worker(path: Path, status: int, body: bytes = b"{}") -> AsyncIterator[None]:
    """Answer with that status."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body)

    application = web.Application()
    for place in ("/readyz", "/metrics"):
        application.router.add_get(place, answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    try:
        yield
    finally:
        await runner.cleanup()


async def test_one_that_stands_still_is_told_from_one_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(worker_set, "TIMEOUT_S", 0.5)
    sockets = [tmp_path / f"{number}.sock" for number in range(4)]
    with socket.socket(socket.AF_UNIX) as still:
        # The system takes its connections; nobody answers them.
        still.bind(str(sockets[3]))
        still.listen()
        async with worker(sockets[0], 200), worker(sockets[1], 503):
            states = await states_of(Workers(sockets), "/readyz")

    assert states == {"0": "ok", "1": "not ready", "3": SILENT}
