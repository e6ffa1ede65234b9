"""What every store has: one property for each port."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from proxy.ports.batches import BatchStore, LeaseStore, UnbatchableStore
from proxy.ports.jobs import CredentialStore, DeliveryStore, JobStore, QueueStore
from proxy.ports.ledger import LedgerStore
from proxy.ports.notes import NoteStore
from proxy.ports.notices import NoticeStore
from proxy.ports.runs import RunStore
from proxy.ports.wakeups import Wakeups


@dataclass(frozen=True, slots=True)
class Durability:
    """What of a store outlives what."""

    words: str
    """For operators, in a few words."""

    is_durable: bool
    """Whether accepted jobs outlive a crash of what keeps them."""


class Stores(Protocol):
    """All parts of one store; an adapter that lacks a part, or a method, does not type-check."""

    @property
    def setback(self) -> timedelta:
        """How much of what it has taken last a failover or a crash may cost, at the most.

        What was done by its word before may be needed once more then: see `Ground.setback`.
        """
        ...

    @property
    def jobs(self) -> JobStore: ...

    @property
    def queue(self) -> QueueStore: ...

    @property
    def deliveries(self) -> DeliveryStore: ...

    @property
    def credentials(self) -> CredentialStore: ...

    @property
    def batches(self) -> BatchStore: ...

    @property
    def unbatchable(self) -> UnbatchableStore: ...

    @property
    def leases(self) -> LeaseStore: ...

    @property
    def runs(self) -> RunStore: ...

    @property
    def wakeups(self) -> Wakeups: ...

    @property
    def notes(self) -> NoteStore: ...

    @property
    def ledger(self) -> LedgerStore: ...

    @property
    def notices(self) -> NoticeStore: ...
