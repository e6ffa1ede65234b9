"""Write to the files of a send, and say what is in the way."""

import os
from pathlib import Path

from proxy.send.errors import SendError


def write_at(file: int, data: bytes, offset: int, *, path: Path) -> None:
    """Write all of `data` at that place.

    Raises:
        SendError: if it cannot be, as on a full disk; some of it may be written then.
    """
    rest = memoryview(data)
    try:
        while rest:
            # A disk that becomes full takes a part first, and refuses the next.
            written = os.pwrite(file, rest, offset)
            rest, offset = rest[written:], offset + written
    except OSError as exc:
        raise not_written(path, exc) from exc


def sync(file: int, *, path: Path) -> None:
    """Make durable what was written.

    Raises:
        SendError: if it cannot be.
    """
    try:
        os.fsync(file)
    except OSError as exc:
        raise not_written(path, exc) from exc


def not_written(path: Path, exc: OSError) -> SendError:
    """Return what to raise for a file that could not be written."""
    return SendError(
        f"{path} cannot be written: {exc.strerror}",
        hint="once it can, the same command goes on",
    )
