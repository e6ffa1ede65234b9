"""`offramp check`."""

from dataclasses import asdict
from pathlib import Path

import click

from proxy.cli import BAD_CONFIGURATION
from proxy.cli.namesake import refuse_namesake
from proxy.cli.options import config_option, json_option
from proxy.cli.output import print_json, print_table
from proxy.settings import BadConfigurationError, Complaint, Configuration, load


@click.command("check")
@config_option("YAML file; without one the defaults hold.")
@json_option
def command(config: Path | None, *, as_json: bool) -> None:
    """Print the effective configuration and where each value came from.

    Ends with 3 and every complaint at once if it cannot be used. Secrets are
    shown as ***.
    """
    refuse_namesake()
    try:
        configuration = load(config)
        _check_policies(configuration.settings.policies)
        _check_inside(configuration)
    except BadConfigurationError as exc:
        if not as_json:
            # Its usual hint is this very command.
            exc.hint = None
            raise
        print_json({"usable": False, "complaints": [asdict(one) for one in exc.complaints]})
        raise click.exceptions.Exit(BAD_CONFIGURATION) from None
    _show(configuration, as_json=as_json)


def _check_policies(file: Path | None) -> None:
    """Read the rules, if there are any, as a start would."""
    if file is None:
        return
    from proxy.services.policies import BadPoliciesError, read_policies  # noqa: PLC0415

    try:
        read_policies(file)
    except BadPoliciesError as exc:
        complaints = (line.partition(": ") for line in exc.complaints)
        raise BadConfigurationError(
            Complaint(place, "policies", problem) for place, _, problem in complaints
        ) from exc


def _check_inside(configuration: Configuration) -> None:
    """Read keys, certificates, prices and the URL of a Redis as a start would, if any are named.

    A Redis goes with a key file, which must be named then.
    """
    settings = configuration.settings
    named = (settings.secret_key_file, settings.tls, settings.admin.tls)
    prices = settings.prices
    if not any((*named, prices.file, prices.providers)):
        return
    from proxy.app.inspection import unusable  # noqa: PLC0415 - the whole proxy

    complaints = []
    for path, exc in unusable(settings):
        key = ".".join(path)
        # Those that a start names by their key say so themselves.
        problem = exc.message.removeprefix(f"{key}: ")
        complaints.append(Complaint(configuration.origin(*path), key, problem))
    if complaints:
        raise BadConfigurationError(complaints)


def _show(configuration: Configuration, *, as_json: bool) -> None:
    effective = configuration.effective()
    if as_json:
        print_json({"usable": True, "settings": [asdict(one) for one in effective]})
        return
    print_table(("key", "value", "from"), [(one.key, one.value, one.origin) for one in effective])
