"""Seeds, given or drawn."""

import os
import random


def draw() -> int:
    """Return `TEST_SEED`, or a new one."""
    return int(os.environ.get("TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
