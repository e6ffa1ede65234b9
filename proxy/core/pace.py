"""Whether a run makes one call at a time. Pure.

A script that waits for each answer before its next call gains nothing from
batches: each would hold one call, and twenty calls would wait for twenty
turnarounds. It cannot be told from the first call, so a few are waited for.
"""

from dataclasses import dataclass
from typing import Final

LONE_CALLS: Final = 3
"""So many batches of one in a row, and the next calls of the run are made directly."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The held calls of one run: enough to tell whether it makes one at a time."""

    under_way: int = 0
    lone: int = 0
    """How many in a row were answered without another having been made meanwhile."""

    has_company: bool = False
    """Whether what is under way had another call beside it at any time."""

    @property
    def is_sequential(self) -> bool:
        """Whether the next call would be alone in its batch as well."""
        return self.lone >= LONE_CALLS

    def begun(self) -> "Pace":
        """Return the pace once another call is held."""
        if self.under_way:
            return Pace(self.under_way + 1, lone=0, has_company=True)
        return Pace(1, self.lone)

    def ended(self, *, waited: bool) -> "Pace":
        """Return the pace once a call is no longer held.

        `waited` says that it was answered by a job of its own. One whose job was known, as in a run
        that resumes, is answered at once and tells nothing.
        """
        assert self.under_way > 0
        lone = self.lone + (waited and not self.has_company)
        return Pace(self.under_way - 1, min(lone, LONE_CALLS), self.has_company)
