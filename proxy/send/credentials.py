"""With which keys the lines were sent whose answers are still to come.

Answers are given only to the key that their calls came with: to any other one a
job does not exist, and whoever takes that for "never sent" buys it again.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path


class Credentials:
    """Hashes by provider, in a file that stands as long as anything may be unanswered."""

    def __init__(self, path: Path, *, salt: str) -> None:
        """`salt` is a name of the send: equal keys of two sends look different."""
        self._path = path
        self._salt = salt
        self._known = _read(path)

    def exchanged(self, keys: Mapping[str, str]) -> list[str]:
        """Return the providers whose lines were sent with another key than this."""
        return [
            provider
            for provider, key in keys.items()
            if self._known.get(provider, self._hash(provider, key)) != self._hash(provider, key)
        ]

    def note(self, keys: Mapping[str, str]) -> None:
        """Make durable what lines are sent with from now on."""
        self._known |= {provider: self._hash(provider, key) for provider, key in keys.items()}
        draft = self._path.with_suffix(".new")
        with draft.open("w") as file:
            json.dump(self._known, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)

    def forget(self) -> None:
        """Let any key follow: everything that was sent is answered, or nothing was."""
        self._known = {}
        self._path.unlink(missing_ok=True)

    def __bool__(self) -> bool:
        return bool(self._known)

    def _hash(self, provider: str, key: str) -> str:
        return hashlib.sha256(f"{self._salt}\0{provider}\0{key}".encode()).hexdigest()


def _read(path: Path) -> dict[str, str]:
    """Return what is noted; of a file that is no longer readable nothing."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
