"""Refuse to run as a mixture with another distribution's package `proxy`.

The package `proxy.py`, for one, installs a top-level `proxy` too. Installed
beside ours, the files of both lie in one directory, and which of two modules of
the same name runs depends on the order of installation.
"""

from collections.abc import Iterable
from importlib.metadata import Distribution, distributions

from proxy.core.errors import ConfigError

_OURS = "offramp"


def refuse_namesake(installed: Iterable[Distribution] | None = None) -> None:
    """Raise `ConfigError` if another distribution owns files in our package.

    The lists of installed files are searched as text: that is a tenth of the
    time of `importlib.metadata.packages_distributions`, and every start pays it.
    """
    for distribution in distributions() if installed is None else installed:
        (name, *_) = distribution.metadata.get_all("Name") or ["an unnamed distribution"]
        record = distribution.read_text("RECORD") or ""
        if name.lower() != _OURS and ("\nproxy/" in record or record.startswith("proxy/")):
            raise ConfigError(
                f"the distribution {name!r} has installed a package `proxy` over ours",
                hint="give offramp an environment of its own, e.g. `pipx install offramp`, or "
                f"`pip uninstall {name}` and install offramp again",
            )
