"""Sealed credentials, and whose lanes are paused."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from proxy.core.errors import StoreCorruptError
from proxy.core.ids import CredentialId, OwnerId
from proxy.ports.jobs import Credential
from proxy.stores.codec import to_micros, to_micros_or
from proxy.stores.contexts import headers_context, refusal_context
from proxy.stores.redis import credential_scripts, keys
from proxy.stores.redis.batches import RedisBatchStore
from proxy.stores.redis.client import Client
from proxy.stores.redis.commands import read, write
from proxy.stores.redis.packing import Argument
from proxy.stores.redis.replies import as_bytes, as_int, as_list, as_map, as_text, as_time
from proxy.stores.vault import Vault

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Row:
    """A credential as it is stored, sealed."""

    id: CredentialId
    fields: Mapping[str, bytes]

    @property
    def place(self) -> tuple[OwnerId, str]:
        """Whose it is, and at which upstream.

        Raises:
            StoreCorruptError: if it does not say so.
        """
        return OwnerId(as_text(self.fields.get("owner"))), as_text(self.fields.get("upstream"))

    @property
    def is_placed(self) -> bool:
        with suppress(StoreCorruptError):
            return bool(self.place)
        return False

    @property
    def is_marked(self) -> bool:
        """Whether the last pass marked it as unused."""
        return "unused" in self.fields


class RedisCredentialStore:
    """What calls are made and billed with."""

    def __init__(self, client: Client, vault: Vault, batches: RedisBatchStore) -> None:
        self._client = client
        self._vault = vault
        self._batches = batches

    async def remember(self, credential: Credential) -> None:
        name = keys.credential(credential.id)
        # At every accepted job: sealing is only for those that are new.
        if await self._client.call(credential_scripts.TOUCH.call([name], 1)) is None:
            return
        headers = json.dumps(credential.headers).encode()
        succeeded = credential.succeeded_at
        await self._client.call(
            credential_scripts.ADD.call(
                [
                    name,
                    keys.CREDENTIALS,
                    keys.credentials_of(credential.owner, credential.upstream),
                ],
                credential.id,
                credential.owner,
                credential.upstream,
                self._vault.seal(headers, context=headers_context(credential.id)),
                to_micros_or(succeeded, ""),
            )
        )

    async def get(self, credential_id: CredentialId) -> Credential | None:
        found = await self._read([credential_id])
        return _opened(found[0], self._vault) if found else None

    async def of_owner(self, owner: OwnerId, upstream: str) -> Sequence[Credential]:
        name = keys.credentials_of(owner, upstream)
        found = self._readable(await self._read(await self._ids(name)))
        # Not of another owner, whatever stands in the index.
        mine = [one for one in found if (one.owner, one.upstream) == (owner, upstream)]
        return sorted(mine, key=lambda one: one.succeeded_at or _NEVER, reverse=True)

    async def all(self) -> Sequence[Credential]:
        return self._readable(await self._everything())

    async def accepted(self, credential_id: CredentialId, *, at: datetime) -> None:
        await self._client.call(
            credential_scripts.ACCEPTED.call(
                [keys.credential(credential_id), keys.PAUSED], credential_id, to_micros(at)
            )
        )

    async def pause(
        self, credential_id: CredentialId, *, at: datetime, status: int | None, body: bytes | None
    ) -> None:
        # Sealed, too: providers repeat parts of the credential in their refusals.
        sealed: Argument = ""
        if body is not None:
            sealed = self._vault.seal(body, context=refusal_context(credential_id))
        await self._client.call(
            credential_scripts.PAUSE.call(
                [keys.credential(credential_id), keys.PAUSED],
                credential_id,
                to_micros(at),
                "" if status is None else status,
                sealed,
            )
        )

    async def forget_unused(self, *, limit: int) -> int:
        needed = await self._needed()
        # Of one that does not say whose it is, nobody can tell if it is needed.
        everything = [row for row in await self._everything() if row.is_placed]
        kept = {row.place for row in everything if row.id in needed}
        unused = [row for row in everything if row.place not in kept]
        twice = sorted((row for row in unused if row.is_marked), key=lambda row: row.id)
        forgotten = [one for one in twice[:limit] if await self._forget(one)]
        gone = {one.id for one in forgotten}
        await self._mark([row for row in unused if row.id not in gone])
        await self._unmark([row for row in everything if row.is_marked and row.place in kept])
        await self._forget_models(gone)
        return len(gone)

    async def _needed(self) -> set[CredentialId]:
        """Return what pending jobs and open batches are made with.

        Asked in the order in which a job moves on, and then once more from the beginning, so that
        none is overlooked because it moved in between.
        """
        needed = {head.key.credential for head in await self._batches.all_heads()}
        replies = await self._client.call_many(
            [read("HVALS", keys.escalating(shard)) for shard in keys.ALL_SHARDS], background=True
        )
        needed |= {CredentialId(as_text(one)) for reply in replies for one in as_list(reply)}
        needed |= {batch.key.credential for batch in await self._batches.all_live()}
        return needed | {head.key.credential for head in await self._batches.all_heads()}

    async def _forget(self, row: _Row) -> bool:
        reply = await self._client.call(
            credential_scripts.FORGET.call(
                [
                    keys.credential(row.id),
                    keys.CREDENTIALS,
                    keys.PAUSED,
                    keys.credentials_of(*row.place),
                ],
                row.id,
            )
        )
        return reply == 1

    async def _mark(self, rows: Sequence[_Row]) -> None:
        await self._client.call_many(
            [credential_scripts.MARK.call([keys.credential(row.id)]) for row in rows]
        )

    async def _unmark(self, rows: Sequence[_Row]) -> None:
        await self._client.call_many(
            [write("HDEL", keys.credential(row.id), "unused") for row in rows]
        )

    async def _forget_models(self, gone: set[CredentialId]) -> None:
        """Forget what was noted about the batches of these credentials."""
        if not gone:
            return
        for name in (keys.SMALL, keys.UNBATCHABLE):
            fields = [as_text(one) for one in as_list(await self._client.call(read("HKEYS", name)))]
            theirs = [one for one in fields if one.partition(" ")[0] in gone]
            if theirs:
                await self._client.call(write("HDEL", name, *theirs))

    async def renew(self) -> None:
        """Seal again what was sealed with a key that is not the first one any more.

        A credential is kept for as long as jobs come with it. Left as it was, it could not
        be read once the old key is dropped.

        Raises:
            StoreCorruptError: if the key of one is missing.
        """
        ids = await self._ids(keys.CREDENTIALS)
        replies = await self._client.call_many(
            [read("HMGET", keys.credential(one), "headers", "body") for one in ids]
        )
        for name, reply in zip(ids, replies, strict=True):
            headers, body = as_list(reply)
            fields = (
                ("headers", headers, headers_context(name)),
                ("body", body, refusal_context(name)),
            )
            for field, sealed, context in fields:
                if not isinstance(sealed, bytes):
                    continue
                renewed = self._vault.renewed(sealed, context=context)
                if renewed is not None:
                    await self._client.call(
                        credential_scripts.RENEW.call(
                            [keys.credential(name)], field, sealed, renewed
                        )
                    )

    async def _everything(self) -> list[_Row]:
        return await self._read(await self._ids(keys.CREDENTIALS))

    async def _ids(self, name: str) -> list[CredentialId]:
        ids = as_list(await self._client.call(read("SMEMBERS", name)))
        return sorted(CredentialId(as_text(one)) for one in ids)

    async def _read(self, ids: Sequence[CredentialId]) -> list[_Row]:
        replies = await self._client.call_many(
            [read("HGETALL", keys.credential(one)) for one in ids]
        )
        fields = [as_map(reply) for reply in replies]
        return [_Row(one, found) for one, found in zip(ids, fields, strict=True) if found]

    def _readable(self, rows: Sequence[_Row]) -> list[Credential]:
        found = []
        for row in rows:
            # One that is damaged concerns nobody else: `get` tells whoever needs it.
            with suppress(StoreCorruptError):
                found.append(_opened(row, self._vault))
        return found


def _opened(row: _Row, vault: Vault) -> Credential:
    name, found = row.id, row.fields
    owner, upstream = row.place
    # The context is the ID that was asked for: another one's headers do not open.
    headers = json.loads(vault.open(as_bytes(found.get("headers")), context=headers_context(name)))
    body = found.get("body")
    return Credential(
        id=name,
        owner=owner,
        upstream=upstream,
        headers=tuple((header, value) for header, value in headers),
        succeeded_at=as_time(found.get("succeeded")),
        paused_at=as_time(found.get("paused")),
        pause_status=as_int(found["status"]) if "status" in found else None,
        pause_body=None if body is None else vault.open(body, context=refusal_context(name)),
    )
