"""Keep in mind how each run makes its calls, for the choice of their lane."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Self

from proxy.core.pace import Pace

MAX_RUNS: Final = 10_000
"""Some 3 MB. Beyond it the longest unused is forgotten: it waits for a few batches again."""


class Paces:
    """The paces of runs, as this instance sees them."""

    def __init__(self) -> None:
        self._paces: OrderedDict[Hashable, Pace] = OrderedDict()

    def hold(self, run: Hashable | None) -> "HeldCall":
        """Return a context in which one call of the run waits; without a run nothing is noted.

        To be entered before the call is accepted: of two that arrive together,
        neither is alone.
        """
        return HeldCall(self, run)

    def get(self, run: Hashable) -> Pace:
        """Return the pace of the run as it is now."""
        return self._paces.get(run, Pace())

    def put(self, run: Hashable, pace: Pace) -> None:
        """Keep the pace of the run."""
        self._paces[run] = pace
        self._paces.move_to_end(run)
        if len(self._paces) > MAX_RUNS:
            self._paces.popitem(last=False)


class HeldCall:
    """One call that waits for its answer."""

    def __init__(self, paces: Paces, run: Hashable | None) -> None:
        self._paces = paces
        self._run = run
        self.alone = False
        """Whether it would be alone in its batch, going by the calls before it."""

        self.is_new = False
        """Whether a job was made for it; to be set by whoever made it."""

    def __enter__(self) -> Self:
        if self._run is not None:
            pace = self._paces.get(self._run).begun()
            self._paces.put(self._run, pace)
            self.alone = pace.is_sequential
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Note that it waits no more: as soon as it is answered, since the next may follow."""
        if self._run is None:
            return
        pace = self._paces.get(self._run)
        if pace.under_way:
            self._paces.put(self._run, pace.ended(waited=self.is_new))
        self._run = None
