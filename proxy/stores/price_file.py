"""The price list as a file: the one that is shipped, or the operator's."""

import json
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path

from proxy.core.errors import ConfigError
from proxy.core.price_list import PriceList, parse_list


def shipped_prices() -> Callable[[], PriceList]:
    """Read the shipped list; return what makes sense of it, which takes a tenth of a second."""
    content = (files("proxy") / "data" / "prices.json").read_bytes()
    return lambda: parse_list(json.loads(content))


def read_prices(path: Path | None = None) -> PriceList:
    """Return the list in `path`, or the shipped one.

    Raises:
        ConfigError: if the operator's cannot be read.
    """
    if path is None:
        return shipped_prices()()
    try:
        return parse_list(json.loads(path.read_bytes()))
    except OSError as exc:
        raise ConfigError(f"prices.file: {path}: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ConfigError(
            f"prices.file: {path} is no price list: {type(exc).__name__}: {exc}",
            hint="it has the form of the shipped one, proxy/data/prices.json",
        ) from exc


def check_providers(providers: Mapping[str, str], known: PriceList) -> None:
    """Check that the list has each provider whose prices shall hold for an upstream.

    Raises:
        ConfigError: if not: every price there would be unknown, and nothing would say why.
    """
    for upstream, provider in providers.items():
        if provider not in known.providers:
            raise ConfigError(
                f"prices.providers.{upstream}: {provider!r} is no provider of the price list;"
                f" it has {', '.join(sorted(known.providers))}"
            )
