"""The settings of a proxy that serves one command alone."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

from proxy.core.dialects import DIALECTS
from proxy.embedded.folder import Folder
from proxy.settings import Settings, load

LINGER: Final = timedelta(seconds=5)
"""How long jobs wait for company that nobody else will bring: a command makes all of
its calls as fast as it can."""

_FIXED: Final[Mapping[str, str]] = {
    "listen": "127.0.0.1:0",
    "admin.listen": "127.0.0.1:0",
    # Certificates are made out to the service's name, and the command comes to an address.
    "tls": "",
    "admin.tls": "",
    # The service has its own: two that write to one file would mix their lines.
    "recording.path": "",
    # Made beside the store: nobody else is to open what this run sealed.
    "secret_key_file": "",
    "durability": "durable",
    # Whoever is still connected once the command has ended was left behind by it.
    "instance.drain_timeout": "5s",
}


def embedded_settings(
    config: Path | None,
    folder: Folder,
    base_urls: Mapping[str, str],
    environ: Mapping[str, str],
    *,
    results_kept: timedelta | None = None,
) -> Settings:
    """Return the user's settings, over a store in `folder` and on ports that are free.

    `base_urls` are upstreams that were named elsewhere than in the configuration. One
    that is called otherwise than its dialect must be known there. `results_kept` is for how
    long results are, if the user does not say.

    Raises:
        BadConfigurationError: with every complaint.
    """
    flags = {**_FIXED, "store": f"sqlite://{folder.store}"}
    for name, base_url in base_urls.items():
        flags[f"upstreams.{name}.base_url"] = base_url
        if name in DIALECTS:
            flags[f"upstreams.{name}.dialect"] = name
    configuration = load(config, environ=environ, flags=flags)
    settings = configuration.settings
    deferral, batching = settings.deferral, settings.batching
    if configuration.origin("deferral", "max_unverified_jobs") == "default":
        # It keeps strangers from filling a shared store. Here everybody is the user.
        unbounded = {
            "max_unverified_jobs": deferral.max_pending_jobs,
            "max_unverified_bytes": deferral.max_pending_bytes,
        }
        deferral = deferral.model_copy(update=unbounded)
    if configuration.origin("batching", "linger") == "default":
        batching = batching.model_copy(update={"linger": LINGER})
    retention = settings.retention
    if results_kept is not None and configuration.origin("retention", "results") == "default":
        retention = retention.model_copy(update={"results": results_kept})
    return settings.model_copy(
        update={"deferral": deferral, "batching": batching, "retention": retention}
    )
