"""The variables by which SDKs are told where their provider is.

Measured with the SDKs: they read these at import or when a client is made, in
every process that the command starts. A script that names a base URL in its code
cannot be told anything and is not seen by the proxy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from proxy.core.errors import ConfigError
from proxy.core.upstream import Upstream
from proxy.settings.values import hide_secrets


@dataclass(frozen=True, slots=True)
class Sdk:
    """How the SDKs of one provider are told."""

    upstream: str
    variables: tuple[str, ...]
    """All are set; the first that the user has set already names the upstream."""

    path: str = ""
    """What these SDKs expect at the end of a base URL."""


SDKS: Final = (
    Sdk("openai", ("OPENAI_BASE_URL", "OPENAI_API_BASE"), "/v1"),
    Sdk("anthropic", ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_BASE")),
    Sdk("gemini", ("GOOGLE_GEMINI_BASE_URL",)),
)

_PROXIES: Final = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


def upstream_urls(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the upstreams that the user's own variables name, without the SDKs' path.

    Raises:
        ConfigError: naming the variable, if its base URL cannot be stood in for.
    """
    urls = {}
    for sdk in SDKS:
        name = next((name for name in sdk.variables if environ.get(name, "").strip()), None)
        if name is not None:
            url = _without_path(name, environ[name].strip(), sdk.path)
            try:
                Upstream.parse(sdk.upstream, sdk.upstream, url)
            except ConfigError as exc:
                raise ConfigError(f"{name} is {hide_secrets(url)}: {exc.message}") from exc
            urls[sdk.upstream] = url
    return urls


def child_environment(environ: Mapping[str, str], proxy_url: str) -> dict[str, str]:
    """Return the environment of the command, in which every SDK calls the proxy."""
    changed = {
        name: f"{proxy_url}/{sdk.upstream}{sdk.path}" for sdk in SDKS for name in sdk.variables
    }
    if any(environ.get(name) for name in _PROXIES):
        # Without it, SDKs would ask a proxy elsewhere for this machine's own address. Programs read
        # either variable. Where only one is set, our address alone in the other would hide what
        # that one excludes.
        for name, other in (("NO_PROXY", "no_proxy"), ("no_proxy", "NO_PROXY")):
            known = environ.get(name) or environ.get(other)
            changed[name] = ",".join(filter(None, (known, "127.0.0.1")))
    return {**environ, **changed}


def _without_path(name: str, url: str, path: str) -> str:
    url = url.rstrip("/")
    if not path or url.endswith(path):
        return url.removesuffix(path) if path else url
    try:
        has_path = bool(urlsplit(url).path)
    except ValueError:
        has_path = False
    if has_path:
        raise ConfigError(
            f"{name} is {hide_secrets(url)}, which does not end in {path}",
            hint="name it as an upstream in a configuration, and call it by its prefix",
        )
    return url
