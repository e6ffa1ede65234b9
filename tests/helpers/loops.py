"""The event loops that the service runs on; what is on the wire must be the same on each."""

import asyncio
from collections.abc import Callable, Mapping

from proxy.runtime import loop_factory

LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": loop_factory("uvloop"),
    "asyncio": loop_factory("asyncio"),
}
