"""How long an upstream may take. There is no timer here: it is asked now and then."""

from typing import Final, Protocol

from proxy.ports.upstream import ClientLimits, Phase

_NO_ANSWER: Final = ("did not answer in time", Phase.FIRST_BYTE)
_SILENT: Final = ("fell silent within its answer", Phase.IDLE)
_TAKES_NOTHING: Final = ("takes no more of the body", Phase.UPLOAD)


class Line(Protocol):
    """What is looked at of a connection."""

    reading_paused: bool
    """We hold the upstream back."""
    writing_paused: bool
    """The upstream holds us back."""

    def unsent_bytes(self) -> int:
        """Return how much is written and not yet taken by the kernel."""
        ...


class Timeouts:
    """The time since anything happened, as coarse as the checks are.

    A call notes what happens by an attribute and reads no clock. So a limit is
    never cut short, and overrun by one pause between two checks at most.
    """

    __slots__ = ("_limits", "_since", "_unsent", "heard")

    def __init__(self, limits: ClientLimits) -> None:
        self._limits = limits
        self._since = 0.0
        self._unsent = 0
        self.heard = True
        """Whether anything happened since the last check."""

    def overdue(
        self, now: float, line: Line, *, sent_all: bool, headed: bool
    ) -> tuple[str, Phase] | None:
        """Return what took too long, in words and by its phase."""
        if self.heard or line.reading_paused or self._moves(line, sent_all or headed):
            self.heard = False
            self._since = now
            return None
        if line.writing_paused or headed:
            limit, what = self._limits.idle_s, _TAKES_NOTHING if line.writing_paused else _SILENT
        else:
            limit, what = self._limits.first_byte_s, _NO_ANSWER
        return what if now - self._since > limit else None

    def _moves(self, line: Line, is_upstreams_turn: bool) -> bool:
        """Tell whether it took some of a body, or waits for us to send more."""
        if not line.writing_paused:
            return not is_upstreams_turn
        unsent = line.unsent_bytes()
        moved = unsent != self._unsent
        self._unsent = unsent
        return moved
