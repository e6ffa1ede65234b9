"""Three instances on one Redis keep every promise while all of it is hurt."""

import random
from pathlib import Path

import pytest

from tests.chaos.faults import Kind, plan
from tests.chaos.run import chaos
from tests.chaos.seeds import draw
from tests.chaos.stage import INSTANCES

pytestmark = pytest.mark.redis


async def test_no_promise_is_broken_and_nothing_is_bought_unknown(tmp_path: Path) -> None:
    """Goal: whatever dies, stands still or is cut off, each accepted job ends once, right.

    Method: callers defer and call directly at any of three instances, and repeat what
    breaks, while a plan of faults from one seed kills, freezes and cuts off instances
    and kills the store. Afterwards everything is read back at every instance and
    compared with what was promised, and the bill with the provider's.
    """
    seed = draw()
    print(f"TEST_SEED={seed}")

    outcome = await chaos(tmp_path, seed=seed, seconds=6, pause_s=0.1, say=print)

    assert outcome.problems == []
    assert len(outcome.history.promised) > 20


@pytest.mark.parametrize("seed", range(20))
def test_a_seed_is_one_plan_with_all_kinds_that_leaves_one_instance_whole(seed: int) -> None:
    plans = [
        plan(random.Random(seed), seconds=5, instances=INSTANCES, lease_s=2, kinds=list(Kind))
        for _ in range(2)
    ]

    assert plans[0] == plans[1]
    assert {fault.kind for fault in plans[0]} == set(Kind)
    for fault in plans[0]:
        hurt = {
            other.instance
            for other in plans[0]
            if other.instance >= 0 and other.at_s <= fault.at_s < other.at_s + other.lasts_s
        }
        assert len(hurt) < INSTANCES
