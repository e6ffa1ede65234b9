"""Which calls are one: by the key that a caller gave its call, or by its place in a run."""

from datetime import timedelta
from typing import Final

from policies.fields import Run
from proxy.core.repeats import run_key
from proxy.ports.clock import Clock, KeyedHash
from proxy.ports.runs import RunStore
from proxy.services.deferral.terms import DeferredCall, Terms

RUN_KEPT: Final = timedelta(days=45)
"""How long a run is remembered after its last call: longer than any job of it, which
ends within 30 days and is kept for a week."""


class IdempotencyKeys:
    """Keys as they are stored: hashed, and of one owner each."""

    def __init__(
        self, *, runs: RunStore, keyed_hash: KeyedHash, clock: Clock, session: str = ""
    ) -> None:
        """`session` is the session of calls whose run names none."""
        self._runs = runs
        self._hash = keyed_hash
        self._clock = clock
        self._session = session

    def given(self, terms: Terms) -> str | None:
        """Return the key that the caller itself gave, if it did."""
        if terms.idempotency_key is None:
            return None
        return self._hashed("key", terms, terms.idempotency_key)

    async def take(self, call: DeferredCall) -> str | None:
        """Return the key that was given, or that of the call within its run, if it has one.

        A call of a run is counted by this: each time it is one more of those alike.
        """
        terms = call.terms
        key = self.given(terms)
        if key is not None or terms.run is None:
            return key
        count = await self._occurrence(call, terms.run)
        return self._hashed("run", terms, run_key(terms.run.id, call.content, count))

    async def _occurrence(self, call: DeferredCall, run: Run) -> int:
        """Count one more call of the run's session."""
        session = self._session if run.session is None else f"={run.session}"
        place = self._hashed("occurrence", call.terms, run.id, session, call.content)
        now = self._clock.now()
        return await self._runs.count(place, now=now, until=now + RUN_KEPT)

    def _hashed(self, kind: str, terms: Terms, *parts: str) -> str:
        return self._hash.digest("idempotency", kind, terms.caller.owner, *parts)
