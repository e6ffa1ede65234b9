"""What goes wrong, when, for how long: all of it from one seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What can befall a fleet."""

    KILL = "kill"
    """An instance dies at once, and is started again later."""

    FREEZE = "freeze"
    """An instance stands still for longer than its lease, and goes on."""

    CUT = "cut"
    """An instance's connections to the store break, and no new one comes about."""

    HUSH = "hush"
    """They stay, and nothing comes through; later all of it does."""

    STORE = "store"
    """The store is killed and started again, or its replica takes over."""


@dataclass(frozen=True, order=True)
class Fault:
    """One of them."""

    at_s: float
    kind: Kind
    instance: int
    lasts_s: float


def plan(
    chance: random.Random, *, seconds: float, instances: int, lease_s: float, kinds: Sequence[Kind]
) -> list[Fault]:
    """Return faults for so long, about one a second, each kind at least once.

    At most one befalls an instance at a time, and one instance is always whole.
    """
    faults: list[Fault] = []
    free_at = [0.0] * instances
    wanted = list(kinds)
    chance.shuffle(wanted)
    now = 0.3
    while now < seconds or wanted:
        kind = wanted.pop() if wanted else chance.choice(kinds)
        lasts = lease_s + chance.uniform(0.5, 2) if kind is Kind.FREEZE else chance.uniform(0.2, 2)
        whole = [number for number in range(instances) if free_at[number] <= now]
        if kind is Kind.STORE:
            faults.append(Fault(now, kind, -1, lasts_s=lasts / 2))
        elif len(whole) > 1:
            instance = chance.choice(whole)
            free_at[instance] = now + lasts + 0.5
            faults.append(Fault(now, kind, instance, lasts))
        else:
            wanted.append(kind)
        now += chance.uniform(0.4, 1.6)
    return faults
