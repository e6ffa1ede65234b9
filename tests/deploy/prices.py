"""Make `proxy/data/prices.json`, the price list that is shipped, out of genai-prices.

    python -m tests.deploy.prices [--as-of 2026-11-26]

writes it anew, with the prices that hold on that day (today, if none is given) in the
release of `genai-prices` that is installed; `pip install -U genai-prices`, and the pin in
`pyproject.toml`, bring newer ones. A test holds the file to what this makes.

What is taken over is the price of text tokens. A price in a batch or in the flex tier is
taken only where the source has one for that very model: asked for one that it does not
have, the package gives the standard price without a word. What it says of sound,
pictures, pages and searches is left out, and so is a model that has nothing else.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from genai_prices import types
from genai_prices.data import providers

FILE: Final = Path(__file__).resolve().parents[2] / "proxy" / "data" / "prices.json"

PROVIDERS: Final = (
    *("anthropic", "azure", "cerebras", "cohere", "deepseek", "doubleword", "fireworks"),
    *("google", "groq", "mistral", "moonshotai", "novita", "openai", "perplexity"),
    *("together", "voyageai", "x-ai"),
)

NO_CACHE_IN_BATCH: Final = frozenset({"openai", "azure", "mistral"})
"""Who charges cached tokens of a batch like others, unless a price for them is listed.

The others reduce cached tokens as ever, and not once more for the batch: Google says so
(Gemini API, "Batch API", 2026-08), and Groq lists it so.
"""

BATCH_SHARE: Final[Mapping[str, float]] = {
    # Reduced for a list of models only, which the source does not have; the others are at
    # full price (Together, "Batch inference", 2026-08). To promise nothing errs on the safe side.
    "together": 1.0,
}
"""What a batch costs of the standard price, where a provider has one rule for all models."""

FLEX_AS_BATCH: Final = frozenset({"google"})
"""Who sells its flex tier for what a batch costs, where the source lists no price for it.

Both are at half (Gemini API, "Optimization", 2026-11). Of cached tokens that page says nothing:
that they are reduced no further errs on the safe side.
"""

OTHERS: Final[Mapping[str, Mapping[str, Any]]] = {
    # Prices of its models are not in the source; its rule for batches is one for all (DeepInfra,
    # "Batch API", 2026-06-19), so it holds for prices that are configured.
    "deepinfra": {
        "address": r"https://api\.deepinfra\.com",
        "batch_share": 0.8,
        "models": [],
    },
}

_YEAR: Final = 366
"""How many days ahead to look for prices that are known to change."""

_PROCESSING: Final[Mapping[str, dict[str, str]]] = {
    "batch": {"processing": "batch"},
    "flex": {"service_tier": "flex"},
}

_RATES: Final = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cached",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
}


def price_list(as_of: date) -> dict[str, Any]:
    """Return the list as it is written."""
    at = datetime.combine(as_of, time(), UTC)
    known = {provider.id: provider for provider in providers}
    return {
        "as_of": as_of.isoformat(),
        "source": f"genai-prices {version('genai-prices')} (MIT)",
        "providers": {name: _provider(known[name], at) for name in PROVIDERS} | dict(OTHERS),
    }


def _provider(provider: types.Provider, at: datetime) -> dict[str, Any]:
    models = [row for model in provider.models for row in _rows(provider.id, model, at)]
    made: dict[str, Any] = {"address": provider.api_pattern, "models": models}
    also = [name for name in provider.fallback_model_providers or () if name in PROVIDERS]
    if also:
        made["also"] = also
    if provider.id in BATCH_SHARE:
        made["batch_share"] = BATCH_SHARE[provider.id]
    return made


def _rows(provider: str, model: types.ModelInfo, at: datetime) -> Iterator[dict[str, Any]]:
    """Yield what a model costs at that time, until when, and what it costs from then on."""
    prices = _all_prices(model, at)
    days = (at + timedelta(days=day) for day in range(1, _YEAR))
    change = next((day for day in days if _all_prices(model, day) != prices), None)
    row = _model(provider, model, at)
    if row is not None:
        yield row if change is None else {**row, "until": change.date().isoformat()}
    if change is not None:
        yield from _rows(provider, model, change)


def _all_prices(model: types.ModelInfo, at: datetime) -> list[types.ModelPrice]:
    return [model.get_prices(at, when) for when in ({}, *_PROCESSING.values())]


def _model(provider: str, model: types.ModelInfo, at: datetime) -> dict[str, Any] | None:
    prices = model.get_prices(at)
    standard = _rates(prices)
    # A fee for each call beside that for tokens would be left out of every price.
    if "input_mtok" not in standard or prices.requests_kcount is not None:
        return None
    # DeepSeek's cost twice as much by day, and a list has one price: that of the night is too low.
    if any(model.get_prices(at + timedelta(hours=hour)) != prices for hour in range(24)):
        return None
    made: dict[str, Any] = {
        "id": model.id,
        "match": _groups(model.match),
        "standard": _tariff(standard),
    }
    for name, when in _PROCESSING.items():
        listed = _variant(model, when, at)
        if listed is None:
            continue
        rates = standard | listed
        if name == "batch" and provider in NO_CACHE_IN_BATCH and "cache_read_mtok" not in listed:
            rates.pop("cache_read_mtok", None)
        made[name] = _tariff(rates)
    if provider in FLEX_AS_BATCH and "batch" in made:
        made.setdefault("flex", made["batch"])
    return made


def _variant(model: types.ModelInfo, when: dict[str, str], at: datetime) -> dict[str, Any] | None:
    """Return what the source lists for that way of processing; nothing if it lists none."""
    listed = [
        variant
        for variant in model.price_variants or ()
        if variant.when == when and (variant.constraint is None or variant.constraint.active(at))
    ]
    if not listed:
        return None
    rates: dict[str, Any] = {}
    for variant in reversed(listed):
        rates |= _rates(variant.prices)
    return rates


def _rates(prices: types.ModelPrice) -> dict[str, Any]:
    return {name: rate for name in _RATES if (rate := getattr(prices, name)) is not None}


def _tariff(rates: Mapping[str, Any]) -> dict[str, Any]:
    tiers: dict[int, dict[str, Any]] = {}
    tariff: dict[str, Any] = {}
    for name, rate in rates.items():
        if isinstance(rate, types.TieredPrices):
            tariff[_RATES[name]] = _number(rate.base)
            for tier in rate.tiers:
                tiers.setdefault(tier.start, {})[_RATES[name]] = _number(tier.price)
        else:
            tariff[_RATES[name]] = _number(rate)
    if tiers:
        tariff["above"] = [{"tokens": start, **tiers[start]} for start in sorted(tiers)]
    return tariff


def _number(rate: Decimal) -> float:
    return int(rate) if rate == rate.to_integral_value() else float(rate)


def _groups(clause: Any) -> list[list[str]]:
    """Return alternatives, each a list of patterns that must all fit."""
    match clause:
        case types.ClauseOr(or_):
            return [group for one in or_ for group in _groups(one)]
        case types.ClauseAnd(and_):
            return [[pattern for one in and_ for pattern in _groups(one)[0]]]
        case types.ClauseEquals(text):
            return [[f"={text.lower()}"]]
        case types.ClauseStartsWith(text):
            return [[f"^{text.lower()}"]]
        case types.ClauseEndsWith(text):
            return [[f"${text.lower()}"]]
        case types.ClauseContains(text):
            return [[f"*{text.lower()}"]]
        case types.ClauseRegex(text):
            return [[f"~{text}"]]
    raise ValueError(f"unknown clause {clause!r}")


def text_of(data: Mapping[str, Any]) -> str:
    """Return the list as a file, a line for each model, so that changes can be read."""
    head = {name: data[name] for name in ("as_of", "source")}
    blocks = []
    for name, provider in data["providers"].items():
        rest = {key: value for key, value in provider.items() if key != "models"}
        models = ",\n".join(f"  {json.dumps(model)}" for model in provider["models"])
        blocks.append(f'{json.dumps(name)}: {json.dumps(rest)[:-1]}, "models": [\n{models}\n]}}')
    body = ",\n".join(blocks)
    return f'{json.dumps(head)[:-1]}, "providers": {{\n{body}\n}}}}\n'


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.prices")
    today = datetime.now(UTC).date()  # noqa: TID251 - a tool that people run
    parser.add_argument("--as-of", type=date.fromisoformat, default=today)
    FILE.write_text(text_of(price_list(parser.parse_args().as_of)))


if __name__ == "__main__":
    main()
