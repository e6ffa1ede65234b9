"""`offramp check`."""

from dataclasses import asdict
from pathlib import Path

import click

from proxy.cli import BAD_CONFIGURATION
from proxy.cli.namesake import refuse_namesake
from proxy.cli.options import config_option, json_option
from proxy.cli.output import print_json, print_table
from proxy.settings import BadConfigurationError, Complaint, Configuration, examine


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
        if not any(one.key == "policies" for one in complaints):
            complaints += _of_policies(configuration.settings.policies)
        complaints += _of_files(configuration, complaints)
        if not complaints:
            _show(configuration, as_json=as_json)
            return
    if not as_json:
        exc = BadConfigurationError(complaints)
        # Its usual hint is this very command.
        exc.hint = None
        raise exc
    print_json({"usable": False, "complaints": [asdict(one) for one in complaints]})
    raise click.exceptions.Exit(BAD_CONFIGURATION)


def _of_policies(file: Path | None) -> list[Complaint]:
    """Read the rules, if there are any, as a start would."""
    if file is None:
        return []
    from proxy.services.policies import BadPoliciesError, read_policies  # noqa: PLC0415

    try:
        read_policies(file)
    except BadPoliciesError as exc:
        complaints = (line.partition(": ") for line in exc.complaints)
        return [Complaint(place, "policies", problem) for place, _, problem in complaints]
    return []


def _of_files(configuration: Configuration, known: list[Complaint]) -> list[Complaint]:
    """Read keys, certificates, prices and the URL of a Redis as a start would, if any are named.

    What is `known` of the same file is not told again.
    """
    settings = configuration.settings
    named = (settings.secret_key_file, settings.tls, settings.admin.tls)
    prices = settings.prices
    if not any((*named, prices.file, prices.providers, settings.store.is_redis)):
        return []
    from proxy.app.inspection import unusable  # noqa: PLC0415 - the whole proxy

    complaints = []
    for path, exc in unusable(settings):
        key = ".".join(path)
        # A certificate and its key are read together.
        files = {key, key.replace("cert_file", "key_file")}
        if any(one.key in files for one in known):
            continue
        # Those that a start names by their key say so themselves.
        problem = exc.message.removeprefix(f"{key}: ")
        complaints.append(Complaint(configuration.origin(*path), key, problem))
    return complaints


def _show(configuration: Configuration, *, as_json: bool) -> None:
    effective = configuration.effective()
    if as_json:
        print_json({"usable": True, "settings": [asdict(one) for one in effective]})
        return
    print_table(("key", "value", "from"), [(one.key, one.value, one.origin) for one in effective])
