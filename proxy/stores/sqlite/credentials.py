"""Sealed credentials, and whose lanes are paused."""

import json
import sqlite3
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, Final

from proxy.core.errors import StoreCorruptError
from proxy.core.ids import CredentialId, OwnerId
from proxy.ports.jobs import Credential
from proxy.stores.codec import from_micros, to_micros, to_micros_or
from proxy.stores.contexts import headers_context, refusal_context
from proxy.stores.sqlite.accepting import remember
from proxy.stores.sqlite.database import Database
from proxy.stores.sqlite.queue import forget_keys
from proxy.stores.sqlite.statements import Row
from proxy.stores.vault import Vault

ROWS_KEPT: Final = 1_000
"""Credentials whose sealed rows are kept: half a kilobyte each."""

_SELECT: Final = (
    "SELECT id, owner, upstream, headers, succeeded, paused, pause_status, pause_body"
    " FROM credentials"
)

# An owner's other credentials at the same upstream are needed too: when one is
# revoked, they poll and harvest what was begun with it.
_UNUSED: Final = """
    SELECT id FROM credentials WHERE NOT EXISTS (
        SELECT 1 FROM credentials AS kin
        WHERE kin.owner = credentials.owner AND kin.upstream = credentials.upstream
        AND (
            EXISTS (SELECT 1 FROM keys WHERE keys.credential = kin.id AND keys.count > 0)
            OR EXISTS (SELECT 1 FROM batches
                WHERE batches.credential = kin.id AND batches.state <> 'settled')
            OR EXISTS (SELECT 1 FROM jobs
                WHERE jobs.credential = kin.id AND jobs.state = 'escalating')
        )
    )
"""


class CredentialRows:
    """Rows of credentials as they are first written.

    The last few are kept: sealing costs as much as all else that a job of a known
    credential costs. They hold nothing in clear that the keys do not name.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._rows: OrderedDict[CredentialId, Row] = OrderedDict()

    def row(self, credential: Credential) -> Row:
        row = self._rows.get(credential.id)
        if row is None:
            row = self._rows[credential.id] = self._sealed(credential)
            if len(self._rows) > ROWS_KEPT:
                self._rows.popitem(last=False)
        return row

    def _sealed(self, credential: Credential) -> Row:
        headers = json.dumps(credential.headers).encode()
        return (
            credential.id,
            credential.owner,
            credential.upstream,
            self._vault.seal(headers, context=headers_context(credential.id)),
            to_micros_or(credential.succeeded_at, None),
            *(None, None, None),
            0,
        )


class SqliteCredentialStore:
    """What calls are made and billed with."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    async def remember(self, credential: Credential) -> None:
        rows = [CredentialRows(self._vault).row(credential)]
        await self._database.write(partial(remember, rows=rows))

    async def get(self, credential_id: CredentialId) -> Credential | None:
        def find(connection: sqlite3.Connection) -> Credential | None:
            row = connection.execute(f"{_SELECT} WHERE id = ?", (credential_id,)).fetchone()
            return None if row is None else _opened(row, self._vault)

        return await self._database.read(find)

    async def of_owner(self, owner: OwnerId, upstream: str) -> Sequence[Credential]:
        return await self._find(
            "WHERE owner = ? AND upstream = ? ORDER BY succeeded DESC NULLS LAST", owner, upstream
        )

    async def all(self) -> Sequence[Credential]:
        return await self._find("")

    async def accepted(self, credential_id: CredentialId, *, at: datetime) -> None:
        await self._update(
            "succeeded = ?, paused = NULL, pause_status = NULL, pause_body = NULL WHERE id = ?",
            to_micros(at),
            credential_id,
        )

    async def pause(
        self, credential_id: CredentialId, *, at: datetime, status: int | None, body: bytes | None
    ) -> None:
        # Sealed, too: providers repeat parts of the credential in their refusals.
        context = refusal_context(credential_id)
        sealed = None if body is None else self._vault.seal(body, context=context)
        await self._update(
            "paused = coalesce(paused, ?), pause_status = ?, pause_body = ? WHERE id = ?",
            to_micros(at),
            status,
            sealed,
            credential_id,
        )

    async def forget_unused(self, *, limit: int) -> int:
        return await self._database.write(partial(_forget_unused, limit=limit))

    async def _find(self, where: str, *values: object) -> list[Credential]:
        def find(connection: sqlite3.Connection) -> list[Credential]:
            found = []
            for row in connection.execute(f"{_SELECT} {where}", values):
                # One that is damaged concerns nobody else: `get` tells whoever needs it.
                with suppress(StoreCorruptError):
                    found.append(_opened(row, self._vault))
            return found

        return await self._database.read(find)

    async def _update(self, change: str, *values: object) -> None:
        def update(connection: sqlite3.Connection) -> None:
            connection.execute(f"UPDATE credentials SET {change}", values)  # noqa: S608

        await self._database.write(update)


def prepare(connection: sqlite3.Connection, vault: Vault) -> None:
    """Seal again what was sealed with a key that is not the first one any more.

    A credential is kept for as long as jobs come with it. Left as it was, it could not be
    read once the old key is dropped.

    Raises:
        StoreCorruptError: if the key of one is missing.
    """
    rows = connection.execute("SELECT id, headers, pause_body FROM credentials").fetchall()
    for name, headers, body in rows:
        renewed = vault.renewed(headers, context=headers_context(name))
        pause = None if body is None else vault.renewed(body, context=refusal_context(name))
        if renewed is not None or pause is not None:
            connection.execute(
                "UPDATE credentials SET headers = ?, pause_body = ? WHERE id = ?",
                (renewed or headers, pause or body, name),
            )


def _opened(row: tuple[Any, ...], vault: Vault) -> Credential:
    name, owner, upstream, headers, succeeded, paused, status, body = row
    opened = json.loads(vault.open(headers, context=headers_context(name)))
    return Credential(
        id=name,
        owner=owner,
        upstream=upstream,
        headers=tuple((header, value) for header, value in opened),
        succeeded_at=None if succeeded is None else from_micros(succeeded),
        paused_at=None if paused is None else from_micros(paused),
        pause_status=status,
        pause_body=None if body is None else vault.open(body, context=refusal_context(name)),
    )


def _forget_unused(connection: sqlite3.Connection, limit: int) -> int:
    unused = {credential_id for (credential_id,) in connection.execute(_UNUSED)}
    known = connection.execute("SELECT id FROM credentials WHERE unused = 1 ORDER BY id")
    twice = [credential_id for (credential_id,) in known if credential_id in unused][:limit]
    for credential_id in twice:
        connection.execute("DELETE FROM credentials WHERE id = ?", (credential_id,))
        connection.execute("DELETE FROM unbatchable WHERE credential = ?", (credential_id,))
        forget_keys(connection, credential_id)
    # One that was just remembered may stand for a job that is being accepted right
    # now: it goes only if it is still unused when the next pass comes.
    connection.execute("UPDATE credentials SET unused = 0 WHERE unused = 1")
    connection.executemany(
        "UPDATE credentials SET unused = 1 WHERE id = ?", [(one,) for one in unused]
    )
    return len(twice)
