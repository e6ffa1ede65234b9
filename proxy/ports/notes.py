"""Small shared records: what instances tell each other, under fixed names."""

from dataclasses import dataclass
from typing import Protocol, Self


@dataclass(frozen=True, slots=True)
class Note:
    """A text, and how often it was written."""

    text: str
    version: int

    @classmethod
    def after(cls, read: "Note | None", text: str) -> Self:
        """Return the note that takes the place of what was read, with another text."""
        return cls(text, 1 if read is None else read.version + 1)


class NoteStore(Protocol):
    """Durable notes. Their writers bound how many there are and how long each is."""

    async def read(self, name: str) -> Note | None:
        """Return the note of that name, if there is one."""
        ...

    async def write(self, name: str, note: Note) -> bool:
        """Write the note if its stored version is one less; 0 for one that is not there.

        Returns whether: false is a lost race and not an error.
        """
        ...
