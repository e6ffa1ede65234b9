"""Recorded facts in a file of bounded size: JSON lines, the older half beside it."""

import os
from collections.abc import Sequence
from pathlib import Path

from proxy.core.errors import StoreUnavailableError


class FactsFile:
    """Appends lines to a file that only its owner can read.

    When it is half of what both may have, it takes the place of the older one,
    `<name>.1`. It is opened for each append, so it may be moved away at any time.
    """

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self._path = path
        self._half = max_bytes // 2

    def append(self, lines: Sequence[bytes]) -> None:
        """Write lines, each followed by a line break, in the order given.

        Raises:
            StoreUnavailableError: if the file system refuses.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            for piece in _pieces(lines, self._half):
                self._append(piece)
        except OSError as exc:
            raise StoreUnavailableError(
                f"{self._path} cannot be written: {exc.strerror}",
                hint="recording goes on once it can be; calls are not affected",
            ) from exc

    def _append(self, piece: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        file = os.open(self._path, flags, 0o600)
        try:
            size = os.fstat(file).st_size
            if size and size + len(piece) > self._half:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
                os.close(file)
                file = os.open(self._path, flags, 0o600)
            while piece:
                piece = piece[os.write(file, piece) :]
        finally:
            os.close(file)


def _pieces(lines: Sequence[bytes], most: int) -> list[bytes]:
    """Join lines to pieces of at most `most` bytes; a line that is longer alone is left out."""
    pieces: list[bytearray] = [bytearray()]
    for line in lines:
        if len(line) >= most:
            continue
        if len(pieces[-1]) + len(line) >= most:
            pieces.append(bytearray())
        pieces[-1] += line + b"\n"
    return [bytes(piece) for piece in pieces if piece]
