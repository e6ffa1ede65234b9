"""Ports for servers that cannot choose one themselves, and ports at which nobody listens."""

import random
import socket
from contextlib import ExitStack
from typing import Final

FIRST: Final = 12_000
BEYOND: Final = 22_000
"""The kernel gives connections, and servers that ask for any port, those from 32,768 on. With
tests side by side it may give one away between the moment it was found free and its use."""

BUS: Final = 10_000
"""A node of a Redis Cluster also listens on its port plus so many."""

_CHANCE: Final = random.SystemRandom()
"""Not that of tests, which may begin alike in each of their processes."""


def free_port() -> int:
    """Return a port of the loopback at which nobody listens, nor on the one for its bus."""
    while True:
        port = _CHANCE.randrange(FIRST, BEYOND)
        with ExitStack() as stack:
            try:
                for place in (port, port + BUS):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", place))
            except OSError:
                continue
        return port
