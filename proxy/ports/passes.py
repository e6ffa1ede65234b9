"""Bringing a background pass forward, for whoever has left it something to do."""

from datetime import timedelta
from typing import Final, Protocol

AT_ONCE: Final = timedelta(0)


class Wake(Protocol):
    """Lets a pass run sooner than by its interval.

    An optimisation only: passes find by themselves what is to be done, and a call that
    is lost costs an interval.
    """

    def __call__(self, name: str, *, within: timedelta = AT_ONCE) -> None:
        """Let the pass of that name run when `within` is over, if not before."""
        ...


def wake_nobody(name: str, *, within: timedelta = AT_ONCE) -> None:
    """Leave every pass to its interval."""
