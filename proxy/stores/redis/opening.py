"""What must hold of a Redis before jobs are trusted to it, and what can be said of it."""

import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from redis.exceptions import ResponseError

from proxy.core.errors import ConfigError, StoreCorruptError, StoreUnavailableError
from proxy.ports.stores import Durability
from proxy.stores.redis import keys
from proxy.stores.redis.address import RedisAddress
from proxy.stores.redis.client import Client
from proxy.stores.redis.commands import Script, read, write
from proxy.stores.redis.failures import ALL_RIGHTS, GRANT, translate
from proxy.stores.redis.node import Node, StoreEvictsError
from proxy.stores.redis.replies import as_int, as_list, as_text
from proxy.stores.vault import Vault

SCHEMA: Final = 4

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_LOST_BY_FSYNC: Final[Mapping[str | None, str]] = {
    "everysec": ": the last second can be lost with its machine",
    "no": ": half a minute can be lost with its machine",
    None: ": the last seconds can be lost with its machine",
}
"""By when the file reaches the disk: without a word of it by the second, as is usual where
nobody is told. Redis' own end, however abrupt, loses none of what it has written."""

OLDEST: Final = (7, 0)
"""Sorted sets are read by `ZRANGE … BYSCORE`, and numbers in scripts are exact."""


_MISSED: Final = Script(
    """
-- Which of the commands the user may not call. Builds that cannot say it are believed.
local missed = {}
for i = 1, redis.acl_check_cmd and #ARGV or 0 do
  if not redis.acl_check_cmd(ARGV[i], KEYS[1], KEYS[1], KEYS[1]) then
    missed[#missed + 1] = ARGV[i]
  end
end
return missed
""",
    writes=False,
)


def check_authorities(address: RedisAddress) -> None:
    """See to it that the certificates which the URL names can be used.

    Raises:
        ConfigError: if they cannot; a connection would only fail.
    """
    if address.ca is None:
        return
    try:
        ssl.create_default_context(cafile=address.ca)
    except OSError as exc:
        raise ConfigError(f"store: option ca: {address.ca} cannot be used: {exc.strerror}") from exc


async def prepare(client: Client, vault: Vault, *, place: str) -> None:
    """Check that the store is ours and fit to keep jobs, or make it ours if it is empty.

    `place` is its address, as a message names it.

    Raises:
        ConfigError: if Redis may throw keys away, or is too old.
        StoreCorruptError: if another version or another key file made the store.
        StoreUnavailableError: if it does not answer.
    """
    try:
        await client.refresh()
        for node in client.nodes:
            _check_server(await _info(node))
    except StoreEvictsError as exc:
        raise ConfigError(f"store: {exc.message}", hint=exc.hint) from exc
    await mark(client, vault, place=place, is_start=True)


async def mark(client: Client, vault: Vault, *, place: str, is_start: bool = False) -> bool:
    """Mark the store as ours if nothing in it is; return whether that was so.

    Raises:
        StoreCorruptError: if another version or another key file made the store.
        StoreUnavailableError: if it does not answer.
    """
    digest, is_new = vault.digest("offramp", "store"), False
    for field, value in (("schema", SCHEMA), ("hash_key", digest)):
        is_new |= await client.call(write("HSETNX", keys.META, field, value)) == 1
    if is_start:
        await _check_rights(client)
        # One node of a cluster may have our marks, and no place for most of the jobs.
        await client.call_many([read("EXISTS", keys.heads(shard)) for shard in keys.ALL_SHARDS])
    found, known = as_list(await client.call(read("HMGET", keys.META, "schema", "hash_key")))
    schema = as_int(found)
    if schema > SCHEMA:
        raise StoreCorruptError(
            f"the store was written by a newer version (schema {schema}, this one knows {SCHEMA})",
            hint="start the newer version again, or restore a backup from before it",
        )
    if schema < SCHEMA:
        raise StoreCorruptError(
            f"the store was written by an older version (schema {schema}, "
            f"this one knows {SCHEMA} alone)",
            hint="let the older version end its jobs, then start this one on an empty Redis",
        )
    # With another hash key every owner would be a stranger to their own jobs.
    if as_text(known) != digest:
        raise StoreCorruptError(
            f"the store at {place} was made with another key file than {vault.source}",
            hint="set secret_key_file to the one that was there first",
        )
    return is_new


async def _check_rights(client: Client) -> None:
    # One that is missed in the midst of a script would leave half of what it does.
    reply = await client.call(_MISSED.call([keys.META], *sorted(Script.called)))
    missed = ", ".join(as_text(name).lower() for name in as_list(reply))
    if missed:
        raise StoreUnavailableError(
            f"the user of Redis lacks the right to call {missed}",
            hint=f"{ALL_RIGHTS} ({GRANT})",
        )


async def clock_ahead(client: Client, now: datetime) -> timedelta:
    """Return by how much the clock of Redis is ahead of `now`: the farthest of its nodes.

    A server that does not tell counts as right.

    Raises:
        StoreUnavailableError: if a node does not answer.
    """
    answers = [await node.ask("TIME") for node in client.nodes]
    told = [as_list(answer) for answer in answers if isinstance(answer, list)]
    ahead = [_EPOCH + timedelta(seconds=as_int(s), microseconds=as_int(us)) - now for s, us in told]
    return max(ahead, key=abs, default=timedelta())


async def durability(client: Client, address: RedisAddress) -> Durability:
    """Return what outlives a crash of Redis: of every node, those alike told of once.

    Raises:
        StoreUnavailableError: if a node does not answer.
    """
    nodes = {await _durability_of(node) for node in client.nodes}
    texts = sorted(node.words for node in nodes)
    acks = f"; each write waits for {address.acks} replicas" if address.acks else ""
    words = f"redis: {' | '.join(texts)}{acks}"
    return Durability(words, is_durable=all(node.is_durable for node in nodes))


async def _durability_of(node: Node) -> Durability:
    info = await _info(node)
    replicas = int(info.get("connected_slaves", "0"))
    is_durable = False
    if info.get("aof_enabled") == "1":
        fsync = await _config(node, "appendfsync")
        is_durable = fsync == "always"
        kept = f"append-only file, fsync {fsync or 'unknown'}{_LOST_BY_FSYNC.get(fsync, '')}"
    elif (snapshots := await _config(node, "save")) is None:
        kept = "no append-only file, and no word of snapshots: what is new can be lost"
    elif int(info.get("rdb_last_save_time", "0")) and snapshots:
        kept = "snapshots only: the last minutes can be lost"
    else:
        kept = "memory only: everything can be lost"
    words = f"{kept}; {replicas} {'replica' if replicas == 1 else 'replicas'}"
    return Durability(words, is_durable)


async def _config(node: Node, name: str) -> str | None:
    """Return a setting, or nothing where the server tells nobody (managed services)."""
    answer = await node.ask("CONFIG", "GET", name)
    if isinstance(answer, list) and len(answer) == 2:
        return as_text(answer[1])
    return None


async def _info(node: Node) -> Mapping[str, str]:
    answer = await node.ask("INFO")
    if isinstance(answer, ResponseError):
        raise translate(answer)
    pairs = (line.partition(":") for line in as_text(answer).splitlines())
    return {name: value for name, _, value in pairs}


def _check_server(info: Mapping[str, str]) -> None:
    version = info.get("redis_version", "0.0")
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise ConfigError(f"store: Redis {version} is too old", hint="7.0 or later is needed")
