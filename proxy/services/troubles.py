"""Why upstreams do not answer, for those who ask why nothing goes on."""

from typing import Final

_WORDS_MAX: Final = 300
"""Of what an error says; a provider's may be a page."""


class Troubles:
    """The last failure of each upstream that gave this instance no answer since."""

    def __init__(self) -> None:
        self._words: dict[str, str] = {}

    def note(self, upstream: str, error: Exception) -> None:
        """Keep what went wrong, in the words of what is nearest to its cause."""
        words = str(error.__cause__ or error) or type(error).__name__
        self._words[upstream] = words[:_WORDS_MAX]

    def are_over(self, upstream: str) -> None:
        """Forget it: the upstream answers."""
        self._words.pop(upstream, None)

    def all(self) -> dict[str, str]:
        """Return why upstreams did not answer the last time, by their names."""
        return dict(self._words)
