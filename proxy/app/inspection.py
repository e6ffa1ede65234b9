"""What a start would refuse of the files that the settings name, found without starting."""

from collections.abc import Callable, Iterator
from functools import partial

from proxy.core.errors import ConfigError
from proxy.settings import Settings
from proxy.stores.vault import Vault
from proxy.web.certificates import Certificate


def unusable_keys(settings: Settings) -> Iterator[tuple[tuple[str, ...], ConfigError]]:
    """Find the files of keys and certificates that are wrong inside, by their place in the tree.

    Only reads: nothing is made.
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
