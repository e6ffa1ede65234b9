"""What tokens cost: the prices of a model, and what one answer comes to.

Money is whole numbers: rates are pico-dollars per token, which is one millionth of
the dollars per million tokens that providers publish, and amounts are nano-dollars,
so that sums over millions of answers are exact in every store.

A model, or a way of processing it, that no list has is *unknown*: it gets no price,
neither zero nor that of something alike. That a provider gives half off as a rule
does not make it true of a model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from proxy.core.usage import Tokens

NANO: Final = 1_000_000_000
"""Nano-dollars in a dollar."""

_SMALL_BILL_USD: Final = 0.01


def usd(nano: int) -> str:
    """Return an amount in dollars, exactly: `0.000168`, `-0.5`, `12`."""
    whole, part = divmod(abs(nano), NANO)
    text = f"{whole}.{part:09}".rstrip("0").rstrip(".")
    return f"-{text}" if nano < 0 else text


def dollar_text(amount: float, *, digits: int = 4) -> str:
    """Return an amount in dollars for people, rounded: `$1,234.5000`, `-$0.0020`."""
    return f"{'-' if amount < 0 else ''}${abs(amount):,.{digits}f}"


def dollar_digits(listed: float) -> int:
    """Return how many digits a bill of this list price needs, so that half looks like half.

    A first try is a dozen calls of a cheap model: $0.0003, less $0.0002, would be $0.0002.
    """
    return 6 if 0 < listed < _SMALL_BILL_USD else 4


class Processing(StrEnum):
    """How an answer was made, as far as it changes the price."""

    STANDARD = "standard"
    BATCH = "batch"
    FLEX = "flex"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Pico-dollars per token, for prompts above a length."""

    above: int = 0
    """These rates hold for a whole call whose prompt has more tokens than this: -1 for any."""

    input: int
    output: int
    cached: int
    cache_write: int
    cache_write_1h: int

    def price(self, tokens: Tokens) -> int:
        """Return the price in nano-dollars."""
        pico = (
            tokens.plain * self.input
            + tokens.cached * self.cached
            + tokens.cache_write * self.cache_write
            + tokens.cache_write_1h * self.cache_write_1h
            + tokens.output * self.output
        )
        return (pico * (100 + tokens.surcharge) + 50_000) // 100_000


@dataclass(frozen=True, slots=True)
class Tariff:
    """The rates of one way of processing."""

    tiers: tuple[Rates, ...]
    """Longest prompts first; the last holds for all."""

    def rates(self, tokens: Tokens) -> Rates:
        """Return what holds for a prompt of that length."""
        for tier in self.tiers:
            if tokens.input > tier.above:
                return tier
        raise AssertionError("the last tier holds for all")

    def times(self, share: float) -> "Tariff":
        """Return the tariff of which every rate is a share of this one's."""
        return Tariff(
            tuple(
                Rates(
                    above=tier.above,
                    input=round(tier.input * share),
                    output=round(tier.output * share),
                    cached=round(tier.cached * share),
                    cache_write=round(tier.cache_write * share),
                    cache_write_1h=round(tier.cache_write_1h * share),
                )
                for tier in self.tiers
            )
        )


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """What a provider charges for one model; nothing where it is not known."""

    standard: Tariff
    batch: Tariff | None = None
    flex: Tariff | None = None

    def tariff(self, processing: Processing) -> Tariff | None:
        """Return the rates of that way of processing, if they are known."""
        match processing:
            case Processing.STANDARD:
                return self.standard
            case Processing.BATCH:
                return self.batch
            case Processing.FLEX:
                return self.flex

    def share(self, processing: Processing) -> float | None:
        """Return which part of the standard price is paid, about; nothing if it is not known."""
        tariff = self.tariff(processing)
        whole = self.standard.tiers[-1]
        if tariff is None or not whole.input + whole.output:
            return None
        reduced = tariff.tiers[-1]
        return (reduced.input + reduced.output) / (whole.input + whole.output)


PriceOf = Callable[[str, str], ModelPrice | None]
"""Tells what a model costs at an upstream, in this order; nothing if that is not known."""


@dataclass(frozen=True)
class Cost:
    """What one answer cost, in nano-dollars."""

    list_nano: int
    """The price of the same tokens in an ordinary call."""

    paid_nano: int
    cache_lost_nano: int = 0
    """The part of what was paid that cached tokens cost because their price is not reduced as much
    as that of others."""

    @property
    def saved_nano(self) -> int:
        """What it cost less than an ordinary call."""
        return self.list_nano - self.paid_nano


def cost_of(price: ModelPrice, tokens: Tokens, processing: Processing) -> Cost | None:
    """Return what an answer cost; nothing if that way of processing has no known price.

    Nor has it one for a prompt so long that an ordinary call is dearer, where the list says
    nothing of such prompts: by the rates of short ones, more would be saved than is true.
    """
    tariff = price.tariff(processing)
    if tariff is None:
        return None
    usual, reduced = price.standard.rates(tokens), tariff.rates(tokens)
    if usual.above > 0 and reduced.above < 0:
        return None
    return Cost(usual.price(tokens), reduced.price(tokens), _cache_lost(usual, reduced, tokens))


def _cache_lost(usual: Rates, reduced: Rates, tokens: Tokens) -> int:
    """Return what cached tokens cost more than a reduction like that of the others gives."""
    if not tokens.cached or not usual.input:
        return 0
    expected = usual.cached * reduced.input // usual.input
    pico = tokens.cached * (reduced.cached - expected)
    return max(0, pico * (100 + tokens.surcharge) // 100_000)
