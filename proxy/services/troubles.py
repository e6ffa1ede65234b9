"""Why upstreams do not answer, for those who ask why nothing goes on."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from proxy.core.errors import ProviderError, ProviderUnavailableError
from proxy.ports.upstream import UpstreamUnavailableError

_WORDS_MAX: Final = 300
"""How much of an error's words is kept; a provider's may fill a page."""


@dataclass(frozen=True, slots=True)
class _Trouble:
    words: str
    at: datetime
    silent: bool
    """Whether the upstream gave no answer at all, or none that promises anything."""


class Troubles:
    """The last failure of each upstream that gave this instance no answer since."""

    def __init__(self) -> None:
        self._last: dict[str, _Trouble] = {}

    def note(self, upstream: str, error: Exception, *, at: datetime) -> None:
        """Keep what went wrong, in the words of what is nearest to its cause."""
        cause = error.__cause__ or error
        # It is told to whoever runs the proxy, who may know what was tried.
        said = cause.detail if isinstance(cause, UpstreamUnavailableError) else str(cause)
        words = said or type(error).__name__
        self._last[upstream] = _Trouble(words[:_WORDS_MAX], at, _is_silence(error))

    def are_over(self, upstream: str) -> None:
        """Forget it: the upstream answers."""
        self._last.pop(upstream, None)

    def all(self) -> dict[str, str]:
        """Return why upstreams did not answer the last time, by their names."""
        return {upstream: trouble.words for upstream, trouble in self._last.items()}

    def silent(self) -> dict[str, datetime]:
        """Return when upstreams gave no answer the last time, by their names."""
        return {name: trouble.at for name, trouble in self._last.items() if trouble.silent}

    def silent_at(self, upstream: str, accepted_at: datetime) -> datetime | None:
        """Return when it last gave no answer, if that was after a job was accepted.

        What was said then is not told: it may be about another caller's account, or about the
        network here.
        """
        at = self.silent().get(upstream)
        return None if at is None or at < accepted_at else at


def _is_silence(error: Exception) -> bool:
    if isinstance(error, ProviderError):
        return isinstance(error, ProviderUnavailableError) or not error.sent
    return isinstance(error, TimeoutError)
