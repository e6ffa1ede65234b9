"""What the store keeps through a crash, asked again and again.

A Redis can be set otherwise by its operator, come back from a restart with other options,
and after a failover is another server: what was found at the start must not be said for ever.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from proxy.ports.stores import Durability

log = structlog.get_logger()

HINT: Final = (
    "let Redis write before it answers (appendonly yes, appendfsync always), or take it that"
    " accepted jobs can be lost with it"
)


class DurabilityWatch:
    """Knows what the store promises, and logs when that begins or ceases to be enough."""

    def __init__(
        self, known: Durability, ask: Callable[[], Awaitable[Durability]] | None = None
    ) -> None:
        """`known` is what was found at the start; `ask` asks the store, if that can change."""
        self.known = known
        """What was found last."""

        self._ask = ask
        if not known.is_durable:
            self._doubt()

    async def run_once(self) -> int:
        """Ask the store; return whether it keeps more or less than before, as 1 or 0.

        Raises:
            StoreUnavailableError: if it does not answer.
        """
        if self._ask is None:
            return 0
        before, self.known = self.known, await self._ask()
        if before.is_durable == self.known.is_durable:
            return 0
        if self.known.is_durable:
            log.info("store.trusted", durability=self.known.words)
        else:
            self._doubt()
        return 1

    def _doubt(self) -> None:
        log.warning("store.doubted", durability=self.known.words, hint=HINT)
