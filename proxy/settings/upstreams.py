"""Where calls go to."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, SecretStr, model_validator

from proxy.core.dialects import DIALECTS
from proxy.core.web_proxy import WebProxyOf, directly
from proxy.settings.section import Section
from proxy.settings.values import (
    Count,
    PositiveDuration,
    TokenHash,
    provider_key,
)
from proxy.settings.web_proxy import web_proxy_of_environment

PUBLIC_UPSTREAMS: Final = ("openai", "anthropic", "gemini", "gemini-openai")
"""The upstreams without any configuration, each called as its dialect."""

PUBLIC_BASE_URLS: Final[Mapping[str, str]] = {
    name: dialect.public_url for name, dialect in DIALECTS.items() if dialect.public_url
}
"""Where the providers are whose address need not be configured."""


class UpstreamSettings(Section):
    """A host that calls go to."""

    dialect: Literal[tuple(sorted(DIALECTS))]  # type: ignore[valid-type]  # the table is the list
    """What it speaks; may be left out where the name is that of a public provider."""

    base_url: str
    """Where it is, without the `/v1` of its paths; may be left out where a provider has one
    address for everybody."""

    batch_models: Mapping[str, str] = Field(default_factory=dict)
    """Where batches need deployments of their own (Azure): the batch deployment of each
    deployment that calls name. A deployment without one is not batched."""

    anonymous: bool = False
    """Whether calls without a credential may be deferred: self-hosted servers."""

    key: SecretStr | None = None
    """The provider's own key, for deployments that keep it from callers: these then present
    a client token in its place."""

    key_file: Path | None = None
    """The file that holds the key, instead of `key`; a change counts from the next start."""

    clients: Mapping[str, tuple[TokenHash, ...]] = Field(default_factory=dict)
    """Who may use the key: hashes of client tokens, by the client's name, which is the owner
    of its jobs."""

    client_paths: tuple[str, ...] = ()
    """Patterns of paths that clients may call beside those that can be deferred and the models,
    with any method, such as `/v1/images/*`. Every client would see the files and batches of all."""

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.key is not None and self.key_file is not None:
            raise ValueError("takes either key or key_file")
        return self

    @property
    def holds_key(self) -> bool:
        """Whether the provider's key is held here."""
        return self.key is not None or self.key_file is not None

    def read_key(self) -> str:
        """Return the key that is held.

        Raises:
            ValueError: if it is none that a header could carry.
            OSError: if the file cannot be read.
        """
        if self.key_file is not None:
            return provider_key(self.key_file.read_text())
        assert self.key is not None
        return provider_key(self.key.get_secret_value())


class Forwarding(Section):
    """Bounds of a forwarded call. There is no total: streams are long."""

    client: Literal["lean", "aiohttp"] = "lean"
    """Whose connections calls are forwarded over: our own, which cost a third, or those of aiohttp,
    for servers with which ours do not work."""

    connect_timeout: PositiveDuration = timedelta(seconds=15)
    """For a free connection, name, TCP and TLS together."""

    first_byte_timeout: PositiveDuration = timedelta(minutes=15)
    """Reasoning models think for minutes before an answer that is not streamed."""

    idle_timeout: PositiveDuration = timedelta(minutes=10)
    """Between two pieces of an answer, and until its caller takes any more of it."""

    web_proxy: Literal["environment", "none"] = "environment"
    """Whether upstreams by https:// are reached through the web proxy that `HTTPS_PROXY`
    names, but for those in `NO_PROXY`."""

    max_connections: Count = 4_096
    """To all upstreams together, three quarters of them to one; more calls wait for a free one."""

    def web_proxy_of(self) -> WebProxyOf:
        """Return what tells which web proxy an upstream is reached through.

        Raises:
            ConfigError: if it is of a kind that cannot be used.
        """
        return directly if self.web_proxy == "none" else web_proxy_of_environment()

    @property
    def max_per_upstream(self) -> int:
        """How many of them one upstream may have: a silent one leaves room for others."""
        return max(1, self.max_connections * 3 // 4)


def with_public_upstreams(value: object) -> object:
    """Fill in what an upstream that is called as its dialect need not say."""
    if not isinstance(value, Mapping):
        return value
    filled: dict[object, object] = {}
    for name, upstream in value.items():
        if isinstance(upstream, Mapping):
            usual: dict[object, object] = {"dialect": name} if name in PUBLIC_BASE_URLS else {}
            dialect = upstream.get("dialect", name)
            if isinstance(dialect, str) and dialect in PUBLIC_BASE_URLS:
                usual["base_url"] = PUBLIC_BASE_URLS[dialect]
            filled[name] = usual | dict(upstream)
        else:
            filled[name] = upstream
    return filled
