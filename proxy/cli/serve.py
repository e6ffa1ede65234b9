"""`offramp serve`."""

from pathlib import Path

import click

from proxy.app import prepare, run
from proxy.cli.complaints import with_places
from proxy.cli.namesake import refuse_namesake
from proxy.cli.options import config_option
from proxy.core.errors import ConfigError
from proxy.settings import load
from proxy.workers import supervise

_LEVELS = click.Choice(["debug", "info", "warning", "error"])
_FORMATS = click.Choice(["auto", "json", "console"])


@click.command("serve")
@config_option("YAML file; without one the defaults hold.")
@click.option("--listen", metavar="HOST:PORT", help="Where calls come in.")
@click.option("--admin-listen", metavar="HOST:PORT", help="Where operators come in.")
@click.option("--store", metavar="URL", help="sqlite:///path or a Redis URL.")
@click.option("--policies", metavar="FILE", help="Rules that divert calls nobody tagged.")
@click.option("--workers", metavar="N", help="Processes that share the ports and the store.")
@click.option("--log-level", type=_LEVELS, help="The least that is logged.")
@click.option(
    "--log-format",
    type=_FORMATS,
    help="Lines for people, or JSON; auto asks whether a terminal reads them.",
)
def command(config: Path | None, **options: str | None) -> None:
    """Run the proxy until it is told to stop.

    Every key of the configuration can also be set by a variable, e.g.
    OFFRAMP_BATCHING__LINGER=5s for batching.linger.
    """
    refuse_namesake()
    configuration = load(config, flags=flags_of(options))
    try:
        if configuration.settings.instance.workers == 1:
            run(configuration)
            return
        prepare(configuration)
    except ConfigError as exc:
        raise with_places(exc, configuration) from exc
    code = supervise(configuration)
    if code:
        raise SystemExit(code)


def flags_of(options: dict[str, str | None]) -> dict[str, str]:
    """Return the flags that were given, by the key that each one sets."""
    keys = {
        "workers": "instance.workers",
        "admin_listen": "admin.listen",
        "log_level": "log.level",
        "log_format": "log.format",
    }
    return {keys.get(name, name): text for name, text in options.items() if text is not None}
