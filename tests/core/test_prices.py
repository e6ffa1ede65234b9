"""Prices of answers, to the nano-dollar."""

import pytest

from proxy.core.price_list import parse_price
from proxy.core.prices import Cost, ModelPrice, Processing, cost_of, dollar_text, usd
from proxy.core.usage import Tokens

SIMPLE = {"standard": {"input": 2, "output": 8}, "batch": {"input": 1, "output": 4}}
MILLION = 1_000_000


def tokens(given: int = 0, made: int = 0, **others: int) -> Tokens:
    return Tokens(input=given, output=made, **others)


def dollars(price: ModelPrice, counted: Tokens, processing: Processing) -> float | None:
    cost = cost_of(price, counted, processing)
    return None if cost is None else cost.paid_nano / 1e9


def test_a_price_is_exact_to_the_nano_dollar() -> None:
    price = parse_price({"standard": {"input": 0.0375, "output": 0.13}})

    cost = cost_of(price, tokens(1, 1), Processing.STANDARD)

    # 37,500 and 130,000 pico-dollars.
    assert cost == Cost(list_nano=168, paid_nano=168)


def test_a_saving_is_the_standard_price_of_the_same_tokens_less_what_was_paid() -> None:
    cost = cost_of(parse_price(SIMPLE), tokens(MILLION, MILLION), Processing.BATCH)

    assert cost == Cost(list_nano=10 * 10**9, paid_nano=5 * 10**9)
    assert cost.saved_nano == 5 * 10**9


@pytest.mark.parametrize("processing", [Processing.BATCH, Processing.FLEX])
def test_processing_without_a_known_price_has_none(processing: Processing) -> None:
    price = parse_price({"standard": {"input": 2, "output": 8}})

    assert cost_of(price, tokens(5, 5), processing) is None


def test_a_batch_at_full_price_saves_nothing() -> None:
    price = parse_price({"standard": {"input": 1, "output": 2}, "batch": {"input": 1, "output": 2}})

    cost = cost_of(price, tokens(MILLION, MILLION), Processing.BATCH)

    assert cost is not None
    assert cost.saved_nano == 0


def test_a_surcharge_is_on_every_token_and_on_what_is_saved() -> None:
    price = parse_price(
        {"standard": {"input": 2, "output": 8, "cached": 1}, "batch": {"input": 1, "output": 4}}
    )
    counted = tokens(MILLION, MILLION, cached=MILLION // 2, surcharge=10)

    cost = cost_of(price, counted, Processing.BATCH)

    assert cost == Cost(
        list_nano=10_450_000_000, paid_nano=5_500_000_000, cache_lost_nano=275_000_000
    )


def test_the_share_of_the_standard_price_is_known_where_both_prices_are() -> None:
    price = parse_price(SIMPLE)

    assert price.share(Processing.BATCH) == 0.5
    assert price.share(Processing.STANDARD) == 1
    assert price.share(Processing.FLEX) is None
    assert parse_price({"standard": {"input": 0, "output": 0}}).share(Processing.STANDARD) is None


def test_a_long_prompt_makes_the_whole_call_dearer() -> None:
    price = parse_price(
        {
            "standard": {
                "input": 2,
                "output": 10,
                "cached": 0.5,
                "above": [{"tokens": 200_000, "input": 4, "output": 15}],
            }
        }
    )

    assert dollars(price, tokens(200_000, 1_000), Processing.STANDARD) == 0.41
    assert dollars(price, tokens(200_001, 0), Processing.STANDARD) == 0.800004
    assert dollars(price, tokens(300_000, 1_000), Processing.STANDARD) == 1.215
    # Cached tokens make a prompt long, too; what the tier does not say stays as it was.
    assert dollars(price, tokens(300_000, 0, cached=300_000), Processing.STANDARD) == 0.15


def test_where_only_ordinary_calls_have_rates_for_long_prompts_others_have_none_known() -> None:
    long = {"tokens": 200_000, "input": 4, "output": 15}
    price = parse_price(
        {
            "standard": {"input": 2, "output": 10, "above": [long]},
            "batch": {"input": 1, "output": 5},
            "flex": {"input": 1, "output": 5, "above": [long]},
        }
    )

    assert cost_of(price, tokens(200_000), Processing.BATCH) == Cost(4 * 10**8, 2 * 10**8)
    assert cost_of(price, tokens(200_001), Processing.BATCH) is None
    assert dollars(price, tokens(200_001), Processing.FLEX) == 0.800004


def test_cached_tokens_without_a_price_of_their_own_cost_what_others_do() -> None:
    price = parse_price({"standard": {"input": 2, "cached": 1}, "batch": {"input": 1}})

    cost = cost_of(price, tokens(MILLION, cached=MILLION), Processing.BATCH)

    # In an ordinary call they are at half, and in the batch not at half of that.
    assert cost == Cost(10**9, 10**9, cache_lost_nano=5 * 10**8)


def test_cached_tokens_that_are_not_halved_once_more_lose_what_that_would_save() -> None:
    price = parse_price(
        {"standard": {"input": 2, "cached": 0.2}, "batch": {"input": 1, "cached": 0.2}}
    )

    cost = cost_of(price, tokens(MILLION, cached=MILLION), Processing.BATCH)

    assert cost == Cost(2 * 10**8, 2 * 10**8, cache_lost_nano=10**8)


def test_reductions_that_stack_lose_nothing() -> None:
    price = parse_price(
        {
            "standard": {
                "input": 3,
                "output": 15,
                "cached": 0.3,
                "cache_write": 3.75,
                "cache_write_1h": 6,
            },
            "batch": {
                "input": 1.5,
                "output": 7.5,
                "cached": 0.15,
                "cache_write": 1.875,
                "cache_write_1h": 3,
            },
        }
    )
    counted = tokens(
        4 * MILLION, MILLION, cached=MILLION, cache_write=MILLION, cache_write_1h=MILLION
    )

    cost = cost_of(price, counted, Processing.BATCH)

    assert cost == Cost(28_050_000_000, 14_025_000_000, 0)


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "0"),
        (168_000, "0.000168"),
        (-500_000_000, "-0.5"),
        (12 * 10**9, "12"),
        (1, "0.000000001"),
    ],
)
def test_amounts_in_dollars_are_exact(nano: int, text: str) -> None:
    assert usd(nano) == text


@pytest.mark.parametrize(
    ("amount", "digits", "text"),
    [(1234.5, 4, "$1,234.5000"), (-0.002, 4, "-$0.0020"), (-1, 2, "-$1.00"), (0, 2, "$0.00")],
)
def test_amounts_for_people_have_their_sign_before_the_dollar(
    amount: float, digits: int, text: str
) -> None:
    assert dollar_text(amount, digits=digits) == text
