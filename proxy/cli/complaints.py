"""What a start would refuse of a configuration that is right in itself, with its place there."""

from collections.abc import Sequence
from pathlib import Path

from proxy.core.errors import ConfigError
from proxy.settings import BadConfigurationError, Complaint, Configuration


def of_surroundings(
    configuration: Configuration, known: Sequence[Complaint] = ()
) -> list[Complaint]:
    """Read rules, keys, certificates, prices and the URL of a Redis as a start would, where they
    are named. What is `known` of the same file is not told again.
    """
    complaints = []
    if not any(one.key == "policies" for one in known):
        complaints += _of_policies(configuration.settings.policies)
    return complaints + _of_files(configuration, known)


def with_places(refusal: ConfigError, configuration: Configuration) -> ConfigError:
    """Return why a start was refused: all that is wrong with the files named, if that is why."""
    complaints = of_surroundings(configuration)
    return BadConfigurationError(complaints) if complaints else refusal


def _of_policies(file: Path | None) -> list[Complaint]:
    if file is None:
        return []
    from proxy.services.policies import BadPoliciesError, read_policies  # noqa: PLC0415

    try:
        read_policies(file)
    except BadPoliciesError as exc:
        complaints = (line.partition(": ") for line in exc.complaints)
        return [Complaint(place, "policies", problem) for place, _, problem in complaints]
    return []


def _of_files(configuration: Configuration, known: Sequence[Complaint]) -> list[Complaint]:
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
