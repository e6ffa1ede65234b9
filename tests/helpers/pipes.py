"""A pipe that has a name."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def named_pipe(at: Path) -> Iterator[Path]:
    """Make a pipe that holds nothing: who reads from it is not held up for ever."""
    os.mkfifo(at)

    def write_nothing() -> None:
        os.close(os.open(at, os.O_WRONLY))

    writer = threading.Thread(target=write_nothing)
    writer.start()
    try:
        yield at
    finally:
        # Whoever waits for a reader is let go, were there one before or not.
        reader = os.open(at, os.O_RDONLY | os.O_NONBLOCK)
        writer.join()
        os.close(reader)
