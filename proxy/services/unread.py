"""A queue of which something cannot be read holds up itself alone, and is told of once."""

from collections.abc import Awaitable
from typing import TypeVar

import structlog

from proxy.core.errors import StoreCorruptError
from proxy.core.lanes import BatchKey
from proxy.services.pauses import keep_in_mind

log = structlog.get_logger()

Done = TypeVar("Done")


class UnreadQueues:
    """Goes on with others where something of a queue is damaged, or sealed with a key of others."""

    def __init__(self) -> None:
        self._told: dict[BatchKey, None] = {}

    async def apart(self, key: BatchKey, work: Awaitable[Done], *, jobs: int) -> Done | None:
        """Return what `work` comes to; nothing if it met what cannot be read.

        `key` is of the queue, or was of the jobs when they were in one, and `jobs` says how many.
        """
        try:
            return await work
        except StoreCorruptError as exc:
            if key not in self._told:
                keep_in_mind(self._told, key, None)
                log.warning(
                    "job.unread",
                    credential=key.credential,
                    lane=key.lane,
                    jobs=jobs,
                    error=str(exc),
                    hint=exc.hint,
                )
            return None
