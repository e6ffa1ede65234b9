"""The server of the operators' listener: aiohttp's, with a bound on who is connected.

aiohttp lets anybody hold a connection who says nothing on it. Off loopback that would be
whoever reaches the probes; and a process whose files are used up serves no callers either.
"""

import asyncio
from typing import Final

from aiohttp import web

CONNECTIONS_MAX: Final = 32
"""Probes, scrapers, and a few people with a dashboard open. `proxy/app/files.py` counts on few."""


class OperatorsRunner(web.AppRunner):
    """Runs the application on a server that keeps no more connections than that."""

    async def _make_server(self) -> web.Server:
        theirs = await super()._make_server()
        return _Server(
            theirs.request_handler,
            request_factory=theirs.request_factory,
            **theirs._kwargs,  # noqa: SLF001 - of the same family
        )


class _Server(web.Server):
    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Keep a new connection, and cut an older one if there are too many.

        Were the new one refused, those who are silent would keep the probes out, and a
        supervisor would kill the process.
        """
        super().connection_made(handler, transport)
        # In the order in which they came. What was cut is known until its task has ended.
        others = [one for one in self.connections if one.transport is not None][:-1]
        if len(others) < CONNECTIONS_MAX:
            return
        silent = (one for one in others if not one._request_in_progress)  # noqa: SLF001
        cut = next(silent, others[0])
        wire = self._connections[cut]
        cut.force_close()
        # Closing would wait for what its peer may never take.
        wire.abort()
