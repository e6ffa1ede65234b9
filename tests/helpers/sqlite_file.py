"""The store's file, as whoever else has it open sees and changes it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path


@contextmanager
def opened(path: Path, *, timeout: float = 5) -> Iterator[sqlite3.Connection]:
    """Open the file behind the store's back, and keep what the block changes.

    A connection's own `with` ends the transaction and leaves the file open.
    """
    with closing(sqlite3.connect(path, timeout=timeout)) as direct, direct:
        yield direct


def run(path: Path, statement: str, *values: object) -> None:
    """Change the file behind the store's back."""
    with opened(path) as direct:
        direct.execute(statement, values)
