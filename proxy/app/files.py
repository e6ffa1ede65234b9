"""How many connections there may be, given how many files the process may have open.

A process that runs out of them can take no call, read no list of prices and send no batch.
"""

from typing import Final

import structlog

from proxy.settings import Settings

log = structlog.get_logger()

OWN_FILES: Final = 96
"""Open files of a process that serves nobody: its store, log, batch APIs, and operators."""


def within_files(settings: Settings, allowed: int) -> Settings:
    """Return settings whose connections fit into the files; callers are told 503 beyond them.

    Half of what is left is for callers and half for upstreams, since a call mostly takes both.
    """
    callers, forwarding = settings.callers, settings.forwarding
    left = max(allowed - OWN_FILES, 2)
    if callers.max_connections + forwarding.max_connections <= left:
        return settings
    to_callers = min(callers.max_connections, left // 2)
    to_upstreams = min(forwarding.max_connections, left // 2)
    log.warning("files.scarce", allowed=allowed, callers=to_callers, upstreams=to_upstreams)
    return settings.model_copy(
        update={
            "callers": callers.model_copy(update={"max_connections": to_callers}),
            "forwarding": forwarding.model_copy(update={"max_connections": to_upstreams}),
        }
    )
