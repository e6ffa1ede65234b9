"""Services and web put together over ports; no adapter is named here."""

from proxy.assembly.house import House, assemble
from proxy.assembly.outside import Outside

__all__ = ["House", "Outside", "assemble"]
