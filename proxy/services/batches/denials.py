"""Find out which credentials are always denied batches, though they may do all else.

What a key without their scope is told, a revoked key and a server in trouble say too. So only
several refusals in a row count, each some time after the one before.
"""

from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Final, NamedTuple

from proxy.core.errors import ProviderError
from proxy.core.lanes import BatchKey, ModelAccess
from proxy.ports.clock import Clock
from proxy.services.experience import UNBATCHABLE_FOR, Experience
from proxy.services.pauses import Backoff, keep_in_mind

DENIED_TIMES: Final = 3
"""How often in a row batches are refused with one of `_STATUSES` before their lane is switched off
for the credential and model: in between, the provider let the credential in to list its models."""

DENIED_TOGETHER: Final = timedelta(minutes=2)
"""Within this, refusals count once: those of batches that are on their way together when a key is
revoked, or a provider in trouble knows nobody."""

_STATUSES: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND})
"""What a key without the scope of batches is told, where the account has some or none."""

_OFF_FOR: Final = Backoff(first=timedelta(minutes=10), longest=UNBATCHABLE_FOR)
"""How long the lane is off. A key may be given the scope, and a path may be missing for minutes, as
behind a gateway that is being set up."""


class _Denied(NamedTuple):
    """How often in a row batches were denied, and until when that says nothing new."""

    times: int
    until: datetime
    length: timedelta
    """How long that time was in all."""


_NEVER: Final = _Denied(0, datetime.min.replace(tzinfo=UTC), timedelta())


class Denials:
    """Switches the batch lane off for a credential and model that are always denied batches."""

    def __init__(self, clock: Clock, experience: Experience) -> None:
        self._clock = clock
        self._experience = experience
        self._denied: dict[ModelAccess, _Denied] = {}

    async def note(self, key: BatchKey, refusal: ProviderError) -> None:
        """Count a refused batch, and switch the lane off if there were enough of them."""
        now, access = self._clock.now(), key.model_access
        last = self._denied.get(access, _NEVER)
        if refusal.status_code not in _STATUSES or now < last.until:
            return
        times, length = last.times + 1, DENIED_TOGETHER
        if times == DENIED_TIMES:
            length = _OFF_FOR.first
        elif times > DENIED_TIMES:
            length = _OFF_FOR.after(last.length, ended_at=last.until, now=now)
        if times >= DENIED_TIMES:
            await self._experience.note_unbatchable(key, length)
        keep_in_mind(self._denied, access, _Denied(times, now + length, length))

    def end(self, key: BatchKey) -> None:
        """Note that a batch was let in: what was denied before says nothing any more."""
        self._denied.pop(key.model_access, None)
