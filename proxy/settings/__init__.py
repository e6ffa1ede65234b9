"""The configuration of the service: one frozen tree, and where each value came from."""

from proxy.settings.deferring import Batching, Deferral, Lanes
from proxy.settings.layers import Complaint
from proxy.settings.listeners import Admin, Tls
from proxy.settings.load import BadConfigurationError, Configuration, Effective, examine, load
from proxy.settings.tree import Instance, Log, Recording, Retention, Settings, Webhook
from proxy.settings.upstreams import Forwarding, UpstreamSettings
from proxy.settings.values import (
    Address,
    StoreUrl,
    duration_text,
    parse_address,
    parse_duration,
)

__all__ = [
    "Address",
    "Admin",
    "BadConfigurationError",
    "Batching",
    "Complaint",
    "Configuration",
    "Deferral",
    "Effective",
    "Forwarding",
    "Instance",
    "Lanes",
    "Log",
    "Recording",
    "Retention",
    "Settings",
    "StoreUrl",
    "Tls",
    "UpstreamSettings",
    "Webhook",
    "duration_text",
    "examine",
    "load",
    "parse_address",
    "parse_duration",
]
