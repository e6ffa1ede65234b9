"""Leases and unbatchable models in memory."""

from collections.abc import Mapping
from datetime import datetime

from proxy.core.ids import CredentialId, InstanceId
from proxy.core.lanes import ModelAccess
from proxy.core.leases import LEASE_MAX


class MemoryUnbatchableStore:
    def __init__(self) -> None:
        self._until: dict[ModelAccess, datetime] = {}

    async def note(
        self, credential_id: CredentialId, endpoint: str, model: str, *, until: datetime
    ) -> None:
        self._until[credential_id, endpoint, model] = until

    async def known(self, *, now: datetime) -> Mapping[ModelAccess, datetime]:
        return {place: until for place, until in self._until.items() if now < until}


class MemoryLeaseStore:
    def __init__(self) -> None:
        self._leases: dict[str, tuple[InstanceId, datetime]] = {}

    async def acquire(
        self, name: str, holder: InstanceId, *, now: datetime, until: datetime
    ) -> bool:
        other, expires_at = self._leases.get(name, (holder, now))
        if other != holder and now < expires_at <= now + LEASE_MAX:
            return False
        self._leases[name] = (holder, until)
        return True

    async def release(self, name: str, holder: InstanceId) -> None:
        if name in self._leases and self._leases[name][0] == holder:
            del self._leases[name]

    async def holders(self, prefix: str, *, now: datetime) -> frozenset[InstanceId]:
        return frozenset(
            holder
            for name, (holder, until) in self._leases.items()
            if name.startswith(prefix) and now < until <= now + LEASE_MAX
        )
