"""`offramp check`."""

from dataclasses import asdict
from pathlib import Path

import click

from proxy.cli import BAD_CONFIGURATION
from proxy.cli.complaints import of_surroundings
from proxy.cli.namesake import refuse_namesake
from proxy.cli.options import config_option, json_option
from proxy.cli.output import print_json, print_table
from proxy.settings import BadConfigurationError, Configuration, examine


@click.command("check")
@config_option("YAML file; without one the defaults hold.")
@json_option
def command(config: Path | None, *, as_json: bool) -> None:
    """Print the effective configuration and where each value came from.

    Ends with 3 and every complaint at once if it cannot be used. Secrets are
    shown as ***.
    """
    refuse_namesake()
    configuration, complaints = examine(config)
    if configuration is not None:
        complaints += of_surroundings(configuration, complaints)
        if not complaints:
            _show(configuration, as_json=as_json)
            return
    exc = BadConfigurationError(complaints)
    if not as_json:
        # Its usual hint is this very command.
        exc.hint = None
        raise exc
    print_json({"usable": False, "complaints": [asdict(one) for one in exc.complaints]})
    raise click.exceptions.Exit(BAD_CONFIGURATION)


def _show(configuration: Configuration, *, as_json: bool) -> None:
    effective = configuration.effective()
    if as_json:
        print_json({"usable": True, "settings": [asdict(one) for one in effective]})
        return
    print_table(("key", "value", "from"), [(one.key, one.value, one.origin) for one in effective])
