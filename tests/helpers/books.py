"""A bookkeeper for tests, with the prices of the sandbox."""

from typing import Final

from proxy.core.price_list import parse_price
from proxy.core.prices import ModelPrice
from proxy.ports.clock import Clock
from proxy.ports.ledger import LedgerStore
from proxy.ports.tally import Tally
from proxy.services.ledger.bookkeeping import Bookkeeper

PRICE: Final = parse_price(
    {
        "standard": {"input": 2, "output": 8},
        "batch": {"input": 1, "output": 4},
        "flex": {"input": 1, "output": 4},
    }
)
"""What the sandbox charges for its small models, in micro-dollars per token."""


def fixed_price(_upstream: str, model: str) -> ModelPrice | None:
    """Return one price for every model whose name does not begin with `unknown`."""
    return None if model.startswith("unknown") else PRICE


def make_books(ledger: LedgerStore, clock: Clock, tally: Tally) -> Bookkeeper:
    return Bookkeeper(price=fixed_price, ledger=ledger, clock=clock, tally=tally)
