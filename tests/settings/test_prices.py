"""Prices that an operator states."""

import pytest

from proxy.core.price_list import parse_price

TWO_UPSTREAMS = """
upstreams: {openai: {}, mine: {dialect: openai, base_url: "http://10.0.0.1:8000"}}
prices: """


@pytest.mark.parametrize(
    ("stated", "complaint"),
    [
        ("{providers: {yours: openai}}", "no upstream 'yours'"),
        ("{models: {gpt-5: {input: 1}}}", "is named upstream/model"),
        ("{models: {yours/gpt-5: {input: 1}}}", "is named upstream/model"),
        ("{models: {mine/llama: {input: -1}}}", "at least 0"),
        ("{models: {mine/llama: {output: 1}}}", "is required"),
        ("{models: {mine/llama: {input: 1, batch_input: 1}}}", "batch_input and batch_output"),
        ("{models: {mine/llama: {input: 1, flex_cached: 1}}}", "flex_input and flex_output"),
    ],
)
def test_prices_that_make_no_sense_are_refused(complaints, stated, complaint):
    (found,) = complaints(TWO_UPSTREAMS + stated)

    assert "offramp.yaml:3:" in found
    assert complaint in found


def test_a_price_list_that_is_not_there_is_refused_before_the_start(complaints):
    (found,) = complaints("prices: {file: /nowhere/prices.json}")

    assert "prices.file: '/nowhere/prices.json': cannot be read" in found


def test_stated_prices_are_reckoned_with_in_dollars_per_million_tokens(configure):
    stated = "{models: {mine/llama-*: {input: 2, output: 8, batch_input: 1, batch_output: 4}}}"

    settings = configure(TWO_UPSTREAMS + stated).settings

    (price,) = settings.prices.models.values()
    assert price.price() == parse_price(
        {"standard": {"input": 2, "output": 8}, "batch": {"input": 1, "output": 4}}
    )


def test_tokens_written_to_a_cache_are_as_much_dearer_in_a_batch_as_in_a_call(configure):
    stated = (
        "{models: {anthropic/claude-x: {input: 3, output: 15, cache_write: 3.75, cache_write_1h: 6,"
        " batch_input: 1.5, batch_output: 7.5, batch_cached: 0.15}}}"
    )
    (price,) = configure(f"prices: {stated}").settings.prices.models.values()

    assert (
        price.price().batch
        == parse_price(
            {
                "standard": {
                    "input": 1.5,
                    "output": 7.5,
                    "cached": 0.15,
                    "cache_write": 1.875,
                    "cache_write_1h": 3,
                }
            }
        ).standard
    )
