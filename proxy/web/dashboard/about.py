"""What pages say of the instance that makes them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What does not change while an instance runs."""

    instance: str
    store: str
    """Its kind, e.g. `sqlite`."""

    durability: str
    """In words, what of the store outlives what."""

    is_durable: bool
    """Whether accepted jobs outlive a crash."""

    is_ephemeral: bool
    """Whether the operator says that they need not, and so none is promised."""

    base_url: str
    """Where calls come in."""

    webhook_hosts: Mapping[str, str]
    """The URL of each webhook, less what may be secret in it."""

    upstreams: Collection[str]
    """Names of those that it can call."""
