"""What the house needs of the world: stores, providers, a clock, a client, chance."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from proxy.core.fields import RawHeaders
from proxy.core.price_list import PriceList
from proxy.core.upstream import Upstream
from proxy.ports.clock import Clock, KeyedHash
from proxy.ports.provider import Provider
from proxy.ports.stores import Stores
from proxy.ports.tasks import TaskOwner
from proxy.ports.upstream import UpstreamClient
from proxy.runtime import random_bytes
from proxy.services.callers.clients import HeldKey
from proxy.services.durability import DurabilityWatch
from proxy.services.insight import Counts
from proxy.services.policies import Policies
from proxy.services.traffic.facts import Sink
from proxy.telemetry import Metrics
from proxy.web.certificates import Certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """Everything that the house needs of the world."""

    stores: Stores
    durability: DurabilityWatch
    keyed_hash: KeyedHash
    clock: Clock
    upstreams: Mapping[str, Upstream]
    providers: Mapping[str, Provider]
    """The batch API of each upstream that has one."""

    client: UpstreamClient
    tasks: TaskOwner
    metrics: Metrics
    read_prices: Callable[[], PriceList]
    """Reads what models cost; asked when that is first needed."""

    random: Callable[[int], bytes] = random_bytes
    """Where the IDs of jobs and batches come from: so many bytes that nobody can guess."""

    session: str = ""
    """What a call belongs to whose run names no session: see `Run`."""

    usual: RawHeaders = ()
    """Headers of ours that hold for calls which do not carry them."""

    policies: Policies | None = None
    """The rules, if there is a file of them."""

    held: Mapping[str, HeldKey] = field(default_factory=dict)
    """Providers' keys that are held here, by upstream."""

    certificates: Sequence[Certificate] = ()
    """Those of our listeners, read again when their files change."""

    facts: Sink | None = None
    """Where facts of calls are recorded, if they are."""

    counts: Counts | None = None
    """Where other processes share the port: asks all of them for what they counted."""
