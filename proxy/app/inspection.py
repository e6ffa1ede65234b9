"""What a start would refuse among the files that settings name, found without starting."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial

from proxy.core.errors import ConfigError
from proxy.core.price_list import PriceList
from proxy.settings import Settings
from proxy.stores.price_file import check_providers, read_prices
from proxy.stores.vault import Vault
from proxy.web.certificates import Certificate


def unusable(settings: Settings) -> Iterator[tuple[tuple[str, ...], ConfigError]]:
    """Find files of keys, certificates and prices that are wrong inside, and a store's URL that
    cannot be used, by their place in the tree.

    Only reads: nothing is made, and nobody is asked.
    """
    for path, read in _readings(settings):
        try:
            read()
        except ConfigError as exc:
            yield path, exc


def _readings(settings: Settings) -> Iterator[tuple[tuple[str, ...], Callable[[], object]]]:
    key_file = settings.secret_key_file
    # With SQLite it may still have to be made.
    if key_file is not None and key_file.exists():
        yield ("secret_key_file",), partial(Vault.load, key_file)
    for path, tls in ((("tls",), settings.tls), (("admin", "tls"), settings.admin.tls)):
        if tls is not None:
            yield (*path, "cert_file"), partial(Certificate, tls.cert_file, tls.key_file)
    prices = settings.prices
    if prices.file is not None:
        yield ("prices", "file"), partial(read_prices, prices.file)
    known = cache(partial(read_prices, prices.file))
    for upstream, provider in prices.providers.items():
        check = partial(_check_provider, known, {upstream: provider})
        yield ("prices", "providers", upstream), check
    if settings.store.is_redis:
        yield ("store",), partial(_read_address, settings.store.url)


def _check_provider(read: Callable[[], PriceList], providers: Mapping[str, str]) -> None:
    try:
        known = read()
    except ConfigError:
        # Complained about at its own place.
        return
    check_providers(providers, known)


def _read_address(url: str) -> None:
    # The library takes 9 MB and a fifth of a second: imported only where it is used.
    from proxy.stores.redis.address import RedisAddress  # noqa: PLC0415
    from proxy.stores.redis.opening import check_authorities  # noqa: PLC0415

    check_authorities(RedisAddress.parse(url))
