"""Where a batch API is. By itself, since what uses it takes half a second to import."""

from dataclasses import dataclass

from proxy.core.web_proxy import WebProxy


@dataclass(frozen=True, slots=True)
class Site:
    """Where a batch API is, how it is reached, and as who."""

    base_url: str
    user_agent: str
    web_proxy: WebProxy | None = None
