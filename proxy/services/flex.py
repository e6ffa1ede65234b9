"""When the discount tier is worth asking: who has it, and where it is full just now.

A refusal costs nothing, and says something about all calls of that model.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from proxy.core.dialects import DIALECTS
from proxy.core.lanes import BatchKey, ModelAccess
from proxy.core.upstream import Upstream
from proxy.services.pauses import Backoff, Pauses

FIRST_PAUSE: Final = timedelta(minutes=1)
LONGEST_PAUSE: Final = timedelta(minutes=15)

UNSUPPORTED_FOR: Final = timedelta(hours=24)
"""How long a model is not asked again that has no such tier, or is billed in another."""

FLEX: Final = "flex"
"""The name of the tier, in requests and in answers (OpenAI, Gemini)."""


class FlexTier:
    """What this instance knows of the tier, per credential, endpoint and model."""

    def __init__(self, upstreams: Mapping[str, Upstream], *, enabled: bool = True) -> None:
        self._upstreams = upstreams
        self._enabled = enabled
        backoff = Backoff(first=FIRST_PAUSE, longest=LONGEST_PAUSE)
        self._pauses: Pauses[ModelAccess] = Pauses(backoff)
        self.changes = 0
        """Grows with every change of what is known here."""

    def field(self, key: BatchKey) -> str | None:
        """Return the field of a body that asks for the tier, where there is one."""
        upstream = self._upstreams.get(key.upstream)
        if upstream is None:
            return None
        endpoint = DIALECTS[upstream.dialect].endpoints.get(key.endpoint)
        return endpoint.flex_field if endpoint is not None else None

    def is_open(self, key: BatchKey, *, now: datetime) -> bool:
        """Return whether a call may be sent there now."""
        if not self._enabled or self.field(key) is None:
            return False
        return not self._pauses.is_on(key.model_access, now)

    def answered(self, key: BatchKey, tier: str | None, *, now: datetime) -> None:
        """Note an answer and the tier that it was billed in."""
        if tier == FLEX:
            self._pauses.end(key.model_access)
            self.changes += 1
        else:
            # Not cheaper than an ordinary call, but slower: it is no such tier.
            self.unsupported(key, now=now)

    def full(self, key: BatchKey, *, now: datetime) -> None:
        """Note a refusal for want of capacity: the pause doubles with each in a row."""
        self.changes += self._pauses.refused(key.model_access, now)

    def unsupported(self, key: BatchKey, *, now: datetime) -> None:
        """Note that the model has no such tier."""
        self._pauses.hold(key.model_access, now + UNSUPPORTED_FOR)
        self.changes += 1


def asking_for(field: str, body: bytes) -> bytes:
    """Return the body of a call, which names no tier, with a request for this one."""
    head, _, rest = body.partition(b"{")
    separator = b"" if rest.lstrip().startswith(b"}") else b","
    return b'%s{"%s":"%s"%s%s' % (head, field.encode(), FLEX.encode(), separator, rest)
