"""Whose prices hold for an upstream, and what a model costs there.

The list is read when the first price is asked for, since a proxy that only forwards needs none: so
it costs no start a tenth of a second, and no idle memory.
"""

from collections.abc import Callable, Mapping
from datetime import date
from functools import lru_cache

from proxy.core.price_list import PriceList
from proxy.core.prices import ModelPrice
from proxy.ports.clock import Clock
from proxy.settings import Settings

_REMEMBERED = 4_096
_MODEL_MAX = 200


class PriceBook:
    """Prices by upstream and model. Unknown is unknown."""

    def __init__(
        self,
        read: Callable[[], PriceList],
        *,
        base_urls: Mapping[str, str],
        providers: Mapping[str, str],
        models: Mapping[str, ModelPrice],
        clock: Clock,
    ) -> None:
        """`providers` says whose prices hold for an upstream, where its address does not;
        `models` are prices by `upstream/model` that go before those of the list."""
        self._read = read
        self._base_urls = base_urls
        self._providers = providers
        self._models = models
        self._clock = clock
        self._list: PriceList | None = None
        self._known = lru_cache(_REMEMBERED)(self._price)

    @property
    def list(self) -> PriceList:
        """The list, read now if it was not."""
        if self._list is None:
            self._list = self._read()
        return self._list

    def price(self, upstream: str, model: str) -> ModelPrice | None:
        """Return what a model costs at an upstream; nothing if that is not known."""
        # The name is its caller's to choose, and is kept here.
        if len(model) > _MODEL_MAX:
            return None
        return self._known(upstream, model, self._clock.now().date())

    def _price(self, upstream: str, model: str, today: date) -> ModelPrice | None:
        provider = self._providers.get(upstream)
        if provider is None:
            provider = self.list.provider_at(self._base_urls.get(upstream, ""))
        stated = _stated(self._models, f"{upstream}/{model}")
        if stated is not None:
            return stated if provider is None else self.list.completed(provider, stated)
        return None if provider is None else self.list.find(provider, model, on=today)


def book_of(settings: Settings, read: Callable[[], PriceList], clock: Clock) -> PriceBook:
    """Return the prices as they are configured; `read` reads the list."""
    return PriceBook(
        read,
        base_urls={name: one.base_url for name, one in settings.upstreams.items()},
        providers=settings.prices.providers,
        models={name: one.price() for name, one in settings.prices.models.items()},
        clock=clock,
    )


def _stated(models: Mapping[str, ModelPrice], model: str) -> ModelPrice | None:
    """Return the price that is stated for a name, or for the longest beginning of it."""
    if model in models:
        return models[model]
    fitting = [
        name for name in models if name.endswith("*") and model.startswith(name.removesuffix("*"))
    ]
    return models[max(fitting, key=len)] if fitting else None
