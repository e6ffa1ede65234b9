"""Messages between instances, over Redis' publish and subscribe."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from redis.asyncio import Connection
from redis.exceptions import RedisError

from proxy.core.chunks import chunked
from proxy.core.errors import StoreError
from proxy.core.ids import JobId
from proxy.ports.tasks import TaskOwner
from proxy.stores.redis import keys
from proxy.stores.redis.address import RedisAddress
from proxy.stores.redis.client import Client
from proxy.stores.redis.commands import read

MESSAGE_JOBS: Final = 500
AGAIN_S: Final = 1.0
"""Between two attempts to subscribe."""


class RedisWakeups:
    """One channel for the whole fleet; a cluster passes it on to every node."""

    def __init__(self, client: Client, address: RedisAddress, tasks: TaskOwner) -> None:
        self._client = client
        self._address = address
        self._tasks = tasks
        self._closing = asyncio.Event()

    def publish(self, job_ids: Sequence[JobId]) -> None:
        for chunk in chunked(job_ids, MESSAGE_JOBS):
            message = " ".join(chunk)
            # Nothing that a replica would have to acknowledge.
            self._client.tell(read("PUBLISH", keys.WAKEUPS, message))

    def subscribe(self, on_change: Callable[[Sequence[JobId]], None]) -> None:
        self._tasks.create_task(self._run(on_change), name="redis wakeups")

    async def aclose(self) -> None:
        """End the subscription."""
        self._closing.set()

    async def _run(self, on_change: Callable[[Sequence[JobId]], None]) -> None:
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(self._listen(on_change))
            await self._closing.wait()
            listening.cancel()

    async def _listen(self, on_change: Callable[[Sequence[JobId]], None]) -> None:
        # Asked each time: a library that takes being cancelled for a failure would
        # otherwise keep the whole process from ending.
        while not self._closing.is_set():
            connection: Connection | None = None
            try:
                async with asyncio.timeout(self._address.timeout_s):
                    connection = await self._client.connect()
                    await connection.send_command("SUBSCRIBE", keys.WAKEUPS)
                await self._hear(connection, on_change)
            except (RedisError, OSError, StoreError, TimeoutError):
                await asyncio.sleep(AGAIN_S)
            finally:
                if connection is not None:
                    await connection.disconnect(nowait=True)

    async def _hear(
        self, connection: Connection, on_change: Callable[[Sequence[JobId]], None]
    ) -> None:
        """Pass on what comes, until the other end has gone.

        Nothing says so where a machine or a wire in between fails: whoever only listens
        must ask, or waits for ever on a connection that nobody has any more.

        Raises:
            RedisError, OSError, TimeoutError: the other end has gone.
        """
        asked = False
        while True:
            message = await connection.read_response(timeout=self._address.timeout_s)
            if message is None and asked:
                raise TimeoutError
            asked = message is None
            if asked:
                await connection.send_command("PING")
            # RESP2, "Push messages": kind, channel, payload.
            elif isinstance(message, list) and message[0] == b"message":
                on_change([JobId(one) for one in message[2].decode().split()])
