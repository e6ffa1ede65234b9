"""Leases, and models that a provider refused in batches."""

import sqlite3
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial

from proxy.core.ids import CredentialId, InstanceId
from proxy.core.lanes import ModelAccess
from proxy.core.leases import LEASE_MAX
from proxy.stores.codec import from_micros, to_micros
from proxy.stores.sqlite.database import Database
from proxy.stores.sqlite.erase import as_blob


class SqliteLeaseStore:
    """Exclusive rights for a time, among the processes that share the file."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def acquire(
        self, name: str, holder: InstanceId, *, now: datetime, until: datetime
    ) -> bool:
        work = partial(
            _acquire, name=name, holder=holder, now=to_micros(now), until=to_micros(until)
        )
        return await self._database.write(work)

    async def release(self, name: str, holder: InstanceId) -> None:
        await self._database.write(partial(_release, name=name, holder=holder))

    async def holders(self, prefix: str, *, now: datetime) -> frozenset[InstanceId]:
        return await self._database.read(partial(_holders, prefix=prefix, now=to_micros(now)))


class SqliteUnbatchableStore:
    """What a provider does not batch."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def note(
        self, credential_id: CredentialId, endpoint: str, model: str, *, until: datetime
    ) -> None:
        values = (credential_id, endpoint, as_blob(model), to_micros(until))
        await self._database.write(partial(_note, values=values))

    async def known(self, *, now: datetime) -> Mapping[ModelAccess, datetime]:
        noted = await self._database.read(_noted)
        if any(until <= now for until in noted.values()):
            await self._database.write(partial(_forget_over, now=to_micros(now)))
        return {place: until for place, until in noted.items() if now < until}


def _acquire(
    connection: sqlite3.Connection, name: str, holder: InstanceId, now: int, until: int
) -> bool:
    connection.execute("DELETE FROM leases WHERE until NOT BETWEEN ? AND ?", _live(now))
    taken = connection.execute(
        "INSERT INTO leases VALUES (?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET until = excluded.until WHERE holder = excluded.holder",
        (name, holder, until),
    )
    return taken.rowcount == 1


def _live(now: int) -> tuple[int, int]:
    """Return when a lease that is held may end, first and last."""
    return now + 1, now + int(LEASE_MAX / timedelta(microseconds=1))


def _release(connection: sqlite3.Connection, name: str, holder: InstanceId) -> None:
    connection.execute("DELETE FROM leases WHERE name = ? AND holder = ?", (name, holder))


def _holders(connection: sqlite3.Connection, prefix: str, now: int) -> frozenset[InstanceId]:
    rows = connection.execute(
        "SELECT DISTINCT holder FROM leases WHERE substr(name, 1, ?) = ? AND until BETWEEN ? AND ?",
        (len(prefix), prefix, *_live(now)),
    )
    return frozenset(InstanceId(holder) for (holder,) in rows)


def _note(connection: sqlite3.Connection, values: tuple[str, str, bytes, int]) -> None:
    connection.execute("INSERT OR REPLACE INTO unbatchable VALUES (?, ?, ?, ?)", values)


def _noted(connection: sqlite3.Connection) -> dict[ModelAccess, datetime]:
    rows = connection.execute("SELECT * FROM unbatchable")
    return {
        (credential, endpoint, model.decode("utf-8", "surrogatepass")): from_micros(until)
        for credential, endpoint, model, until in rows
    }


def _forget_over(connection: sqlite3.Connection, now: int) -> None:
    connection.execute("DELETE FROM unbatchable WHERE until <= ?", (now,))
