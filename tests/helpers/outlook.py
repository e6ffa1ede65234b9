"""What an instance knows of its upstreams, over stores of a test."""

from typing import Any

from proxy.ports.clock import Clock
from proxy.ports.provider import Provider
from proxy.ports.stores import Stores
from proxy.services.experience import Experience
from proxy.services.outlook import Outlook


def make_experience(stores: Stores, clock: Clock, **more: Any) -> Experience:
    return Experience(notes=stores.notes, unbatchable=stores.unbatchable, clock=clock, **more)


def make_outlook(stores: Stores, clock: Clock, provider: Provider, **more: Any) -> Outlook:
    """Return the outlook on the upstream `openai`, whose batch API is `provider`."""
    fields = {"providers": {"openai": provider}, "upstreams": {}} | more
    return Outlook(make_experience(stores, clock), clock=clock, **fields)
