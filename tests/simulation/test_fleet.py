"""Histories of a small fleet: crashes, frozen instances, lost answers, late news.

After each step: no job is lost, none changes once it ended, none has two owners'
batches. At the end, with all faults gone and a day passed: every job ended, with its
one right answer, and the bill is known.

`SIMULATION_EXAMPLES=5000 pytest tests/simulation` runs that many histories of each
fleet in memory, and a tenth of it over SQLite; the default is for every day.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from proxy.stores.sqlite import SqliteStores
from proxy.stores.vault import Vault
from tests.simulation.machine import FleetMachine, WildFleetMachine

EXAMPLES = int(os.environ.get("SIMULATION_EXAMPLES", "0"))

# A history that fails is made shorter before it is shown, and that takes its time.
pytestmark = pytest.mark.timeout(7_200 if EXAMPLES else 600)


class OnSqlite:
    """Keeps the fleet of a machine in one file, which goes with it."""

    async def open_stores(self) -> Any:
        self._folder = TemporaryDirectory()
        path = Path(self._folder.name)
        self._stores = await SqliteStores.open(path / "db", Vault.load_or_create(path / "key"))
        return self._stores

    async def close_stores(self) -> None:
        await self._stores.aclose()
        self._folder.cleanup()


class SqliteFleetMachine(OnSqlite, FleetMachine):
    """A calm fleet over SQLite."""


class WildSqliteFleetMachine(OnSqlite, WildFleetMachine):
    """A wild fleet over SQLite."""


def examples(every_day: int, *, share: float = 1) -> settings:
    return settings(
        max_examples=max(int(EXAMPLES * share), every_day),
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )


TestCalm = FleetMachine.TestCase
TestCalm.settings = examples(40)

TestWild = WildFleetMachine.TestCase
TestWild.settings = examples(50)

TestCalmOnSqlite = SqliteFleetMachine.TestCase
TestCalmOnSqlite.settings = examples(2, share=0.1)

TestWildOnSqlite = WildSqliteFleetMachine.TestCase
TestWildOnSqlite.settings = examples(3, share=0.1)
