"""The configuration of the service: one frozen tree, and where each value came from."""

from proxy.settings.layers import Complaint
from proxy.settings.load import BadConfigurationError, Configuration, Effective, load
from proxy.settings.tree import (
    Admin,
    Batching,
    Deferral,
    Forwarding,
    Instance,
    Lanes,
    Log,
    Recording,
    Retention,
    Settings,
    Tls,
    UpstreamSettings,
    Webhook,
)
from proxy.settings.values import (
    Address,
    StoreUrl,
    credential_hash,
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
    "credential_hash",
    "duration_text",
    "load",
    "parse_address",
    "parse_duration",
]
