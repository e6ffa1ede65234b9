"""Price lists: what each provider charges for its models, as a file states it."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Final

from proxy.core.prices import ModelPrice, Rates, Tariff

_PICO_PER_MILLION: Final = 1_000_000
"""From dollars per million tokens to pico-dollars per token."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a price list."""

    match: tuple[tuple[str, ...], ...]
    """Patterns, of which all of one group must fit; see `_fits`."""

    price: ModelPrice
    until: date | None = None
    """The day, in UTC, from which on it does not hold any more, if that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seller:
    """The price list of one provider."""

    address: str
    """Pattern of the base URLs that are this provider's."""

    entries: tuple[Entry, ...]
    also: tuple[str, ...] = ()
    """Providers whose models it sells at their price."""

    batch_share: float | None = None
    """What a batch costs of the standard price, where one rule holds for all its models."""

    def completed(self, price: ModelPrice) -> ModelPrice:
        """Return a price with the provider's rule for batches applied, if it has one."""
        if price.batch is not None or self.batch_share is None:
            return price
        return replace(price, batch=price.standard.times(self.batch_share))


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceList:
    """What is known of the prices of all providers, and as of when."""

    as_of: str
    source: str
    providers: Mapping[str, Seller]

    def provider_at(self, base_url: str) -> str | None:
        """Return the provider whose address this is. A server that only speaks its API has none."""
        for name, provider in self.providers.items():
            if re.match(provider.address, base_url):
                return name
        return None

    def find(self, provider: str, model: str, *, on: date) -> ModelPrice | None:
        """Return the price of a model on a day, if the list has it."""
        seller = self.providers.get(provider)
        if seller is None:
            return None
        # Gemini's OpenAI API lists its models so, and takes either name.
        name = model.lower().removeprefix("models/")
        for source in (seller, *(self.providers[one] for one in seller.also)):
            for entry in source.entries:
                if entry.until is not None and on >= entry.until:
                    continue
                if any(all(_fits(one, name) for one in group) for group in entry.match):
                    return seller.completed(entry.price)
        return None

    def completed(self, provider: str, price: ModelPrice) -> ModelPrice:
        """Return a price from elsewhere, completed by the rules for all the provider's models."""
        seller = self.providers.get(provider)
        return price if seller is None else seller.completed(price)


def _fits(pattern: str, name: str) -> bool:
    """Return whether a name fits: `=whole`, `^start`, `$end`, `*part` or `~regex`."""
    kind, text = pattern[:1], pattern[1:]
    match kind:
        case "=":
            return name == text
        case "^":
            return name.startswith(text)
        case "$":
            return name.endswith(text)
        case "*":
            return text in name
        case "~":
            return re.search(text, name) is not None
    raise ValueError(f"no pattern of a price list: {pattern!r}")


def parse_list(data: Mapping[str, Any]) -> PriceList:
    """Return the price list that a file holds.

    Raises:
        ValueError, KeyError, TypeError: if it is none. Otherwise what is wrong with it would only
            show when the first answer is booked.
    """
    providers = {name: _seller(seller) for name, seller in data["providers"].items()}
    for name, provider in providers.items():
        for other in provider.also:
            if other not in providers:
                raise ValueError(
                    f"{name} is said to sell the models of {other!r}, who is not in it"
                )
    return PriceList(as_of=str(data["as_of"]), source=str(data["source"]), providers=providers)


def _seller(data: Mapping[str, Any]) -> Seller:
    share = data.get("batch_share")
    return Seller(
        address=_regex(data["address"]),
        entries=tuple(
            Entry(_match(model["match"]), parse_price(model), _day(model.get("until")))
            for model in data["models"]
        ),
        also=tuple(data.get("also") or ()),
        batch_share=None if share is None else _number(share),
    )


def _day(text: str | None) -> date | None:
    return None if text is None else date.fromisoformat(text)


def _match(groups: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    match = tuple(tuple(map(_pattern, group)) for group in groups)
    if not all(match):
        raise ValueError("a group of no patterns, which every name would fit")
    return match


def _pattern(text: str) -> str:
    if text.startswith("~"):
        return f"~{_regex(text[1:])}"
    # Names are compared in lower case.
    pattern = text.lower()
    _fits(pattern, "")
    return pattern


def _regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as exc:
        raise ValueError(f"no regular expression: {text!r}: {exc}") from exc
    return text


def parse_price(data: Mapping[str, Any]) -> ModelPrice:
    """Return the price of a model, of tariffs in dollars per million tokens."""
    return ModelPrice(
        standard=_tariff(data["standard"]),
        batch=_tariff(data["batch"]) if data.get("batch") else None,
        flex=_tariff(data["flex"]) if data.get("flex") else None,
    )


def _tariff(data: Mapping[str, Any]) -> Tariff:
    tiers: Sequence[Mapping[str, Any]] = data.get("above") or ()
    # A longer prompt's tier says only what is dearer there.
    longer = [_rates({**data, **tier}, above=int(tier["tokens"])) for tier in tiers]
    longer.sort(key=lambda rates: -rates.above)
    # Above nothing: also an empty prompt has a price.
    return Tariff((*longer, _rates(data, above=-1)))


def _rates(data: Mapping[str, Any], *, above: int) -> Rates:
    # What is not listed is not reduced: cached tokens are tokens, and so are written ones.
    base = data["input"]
    write = _first(data.get("cache_write"), base)
    return Rates(
        above=above,
        input=_pico(base),
        output=_pico(_first(data.get("output"), 0)),
        cached=_pico(_first(data.get("cached"), base)),
        cache_write=_pico(write),
        cache_write_1h=_pico(_first(data.get("cache_write_1h"), write)),
    )


def _first(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


def _pico(dollars_per_million: float) -> int:
    return round(_number(dollars_per_million) * _PICO_PER_MILLION)


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"no price, and no share of one: {value!r}")
    return value
