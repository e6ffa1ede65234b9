"""Prices that an operator states: of their own contract, or of models that no list has."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from proxy.core.price_list import parse_price
from proxy.core.prices import ModelPrice
from proxy.settings.section import Section

Dollars = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
"""US dollars per million tokens."""


_WRITES: Final = ("cache_write", "cache_write_1h")


class StatedPrice(Section):
    """What one model costs, in US dollars per million tokens."""

    input: Dollars
    """The prompt."""

    output: Dollars = 0.0
    """What is generated; embeddings have none."""

    cached: Dollars | None = None
    """Prompt tokens read from a cache; as `input` if nothing."""

    cache_write: Dollars | None = None
    """Prompt tokens written to a cache; as `input` if nothing. In a batch or the flex tier they
    cost as many times the input as here."""

    cache_write_1h: Dollars | None = None
    """Written to a cache for an hour, likewise; nothing: as `cache_write`."""

    batch_input: Dollars | None = None
    """In a batch; nothing: by the provider's rule for all models, or else unknown."""

    batch_output: Dollars | None = None
    """In a batch; needed beside `batch_input`."""

    batch_cached: Dollars | None = None
    """In a batch; nothing: as `batch_input`."""

    flex_input: Dollars | None = None
    """In the flex tier; nothing: unknown."""

    flex_output: Dollars | None = None
    """In the flex tier; needed beside `flex_input`."""

    flex_cached: Dollars | None = None
    """In the flex tier; nothing: as `flex_input`."""

    @model_validator(mode="after")
    def _whole_tiers(self) -> Self:
        for tier in ("batch", "flex"):
            given = [getattr(self, f"{tier}_{name}") for name in ("input", "output", "cached")]
            if (given[0] is None) != (given[1] is None) or (given[0] is None and given[2]):
                raise ValueError(f"needs {tier}_input and {tier}_output together")
        return self

    def price(self) -> ModelPrice:
        """Return the same as it is reckoned with."""
        standard = self.model_dump(include={"input", "output", "cached", *_WRITES})
        tiers = {
            tier: self._reduced(tier)
            for tier in ("batch", "flex")
            if getattr(self, f"{tier}_input") is not None
        }
        return parse_price({"standard": standard, **tiers})

    def _reduced(self, tier: str) -> dict[str, float | None]:
        stated = {name: getattr(self, f"{tier}_{name}") for name in ("input", "output", "cached")}
        # Cheaper than other tokens of the tier they would never be.
        share = stated["input"] / self.input if self.input else 1.0
        writes = {name: getattr(self, name) for name in _WRITES}
        return stated | {name: price * share for name, price in writes.items() if price is not None}


class Prices(Section):
    """What answers cost. A list is shipped; what is said here goes before it."""

    file: Path | None = None
    """A list of the form of the shipped one, `proxy/data/prices.json`, instead of that."""

    providers: Mapping[str, str] = Field(default_factory=dict)
    """By upstream, whose prices in the list hold there; nothing: told by its `base_url`."""

    models: Mapping[str, StatedPrice] = Field(default_factory=dict)
    """By `upstream/model`; a name that ends with `*` holds for all that begin so."""
