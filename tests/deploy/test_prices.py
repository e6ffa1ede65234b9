"""The shipped price list is what the command makes, and prices as its source does."""

import json
from datetime import UTC, date, datetime, time, timedelta

import pytest
from genai_prices import Usage
from genai_prices.data import providers
from genai_prices.types import ModelInfo

from proxy.core.price_list import parse_list, parse_price
from proxy.core.prices import Processing, cost_of
from proxy.core.usage import Tokens
from tests.deploy.prices import (
    BATCH_SHARE,
    FILE,
    FLEX_AS_BATCH,
    NO_CACHE_IN_BATCH,
    PROVIDERS,
    price_list,
    text_of,
)

TEXT = FILE.read_text()
LIST = parse_list(json.loads(TEXT))
AT = datetime.combine(date.fromisoformat(LIST.as_of), time(), UTC)

MODELS = [
    (provider.id, model)
    for provider in providers
    if provider.id in PROVIDERS
    for model in provider.models
    if provider.find_model(model.id) is model
]
CONTEXTS: dict[Processing, dict[str, str]] = {
    Processing.STANDARD: {},
    Processing.BATCH: {"processing": "batch"},
    Processing.FLEX: {"service_tier": "flex"},
}


def test_the_file_is_what_the_command_makes() -> None:
    assert text_of(price_list(date.fromisoformat(LIST.as_of))) == TEXT


def usages(*, cached: bool) -> list[Tokens]:
    plain = [Tokens(input=n, output=77) for n in (1_000, 190_000, 250_000, 900_000)]
    return plain + [Tokens(input=n.input, output=77, cached=640) for n in plain if cached]


def source_price(model: ModelInfo, tokens: Tokens, processing: Processing) -> float:
    usage = Usage(
        input_tokens=tokens.input, output_tokens=tokens.output, cache_read_tokens=tokens.cached
    )
    return float(model.get_prices(AT, CONTEXTS[processing]).calc_price(usage)["total_price"])


@pytest.mark.parametrize(
    ("processing", "at_least"),
    [(Processing.STANDARD, 500), (Processing.BATCH, 90), (Processing.FLEX, 20)],
)
def test_prices_are_those_of_the_source(processing: Processing, at_least: int) -> None:
    compared, unknown = set(), set()
    for provider, model in MODELS:
        price = LIST.find(provider, model.id, on=AT.date())
        ruled = {Processing.BATCH: BATCH_SHARE, Processing.FLEX: FLEX_AS_BATCH}
        by_rule = provider in ruled.get(processing, ())
        if price is None or price.tariff(processing) is None or by_rule:
            continue
        cached = processing is not Processing.BATCH or provider not in NO_CACHE_IN_BATCH
        for tokens in usages(cached=cached):
            cost = cost_of(price, tokens, processing)
            if cost is None:
                # Of a prompt so long the source tells what an ordinary call costs, and no more.
                unknown.add((model.id, tokens.input))
                continue
            expected = source_price(model, tokens, processing)
            assert cost.paid_nano / 1e9 == pytest.approx(expected, abs=2e-9), (model.id, tokens)
            compared.add(model.id)

    assert len(compared) >= at_least
    assert unknown <= {("gpt-5.5-pro", 900_000)}


def test_a_price_that_depends_on_the_hour_is_none() -> None:
    def depends(model: ModelInfo) -> bool:
        hours = [model.get_prices(AT + timedelta(hours=hour)) for hour in range(24)]
        return any(one != hours[0] for one in hours)

    found = [(provider, model.id) for provider, model in MODELS if depends(model)]

    assert ("deepseek", "deepseek-v4-pro") in found
    assert [one for one in found if LIST.find(*one, on=AT.date()) is not None] == []


def test_a_price_that_is_known_to_change_changes_on_its_day() -> None:
    then = datetime(2027, 1, 1, tzinfo=UTC)
    changed = 0
    for provider, model in MODELS:
        price = LIST.find(provider, model.id, on=then.date())
        if price is not None and price != LIST.find(provider, model.id, on=AT.date()):
            usage = Usage(input_tokens=1_000, output_tokens=77)
            expected = float(model.get_prices(then).calc_price(usage)["total_price"])
            cost = cost_of(price, Tokens(1_000, 77), Processing.STANDARD)
            assert cost is not None
            assert cost.paid_nano / 1e9 == pytest.approx(expected, abs=2e-9), model.id
            changed += 1

    assert changed >= 5


def test_the_flex_tier_of_gemini_costs_what_its_batches_do() -> None:
    for provider, model in MODELS:
        price = LIST.find(provider, model.id, on=AT.date())
        if provider in FLEX_AS_BATCH and price is not None:
            assert price.flex == price.batch, model.id

    flash = LIST.find("google", "gemini-2.5-flash", on=AT.date())
    assert flash is not None
    assert flash.share(Processing.FLEX) == 0.5


def test_a_price_in_a_batch_stands_only_where_the_source_has_one() -> None:
    """Asked for a batch of other models, the source says the standard price."""
    without = 0
    for provider, model in MODELS:
        listed = any(one.when == CONTEXTS[Processing.BATCH] for one in model.price_variants or ())
        price = LIST.find(provider, model.id, on=AT.date())
        if not listed and price is not None and provider not in BATCH_SHARE:
            assert price.batch is None, model.id
            without += 1

    assert without > 300


@pytest.mark.parametrize(
    ("provider", "model", "cached_share"),
    [
        # Before GPT-5, a batch does not reduce cached tokens; since, both reductions hold.
        ("openai", "gpt-4.1", 1.0),
        ("openai", "gpt-5.4-mini", 0.1),
        ("anthropic", "claude-sonnet-4-5", 0.1),
        # Gemini's are not halved once more: a tenth of the price of ordinary calls.
        ("google", "gemini-2.5-flash", 0.2),
    ],
)
def test_cached_tokens_in_a_batch(provider: str, model: str, cached_share: float) -> None:
    price = LIST.find(provider, model, on=AT.date())
    assert price is not None
    assert price.batch is not None

    rates = price.batch.tiers[-1]
    whole = rates.price(Tokens(input=100_000, output=0))
    cached = rates.price(Tokens(input=100_000, output=0, cached=100_000))

    assert cached / whole == pytest.approx(cached_share)


def test_providers_that_reduce_less() -> None:
    together = LIST.find("together", "meta-llama/Llama-3.3-70B-Instruct-Turbo", on=AT.date())
    assert together is not None
    assert together.batch == together.standard

    stated = LIST.completed("deepinfra", parse_price({"standard": {"input": 10, "output": 20}}))
    assert stated.batch == parse_price({"standard": {"input": 8, "output": 16}}).standard
