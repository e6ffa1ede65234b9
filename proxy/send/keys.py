"""Where the API key of a provider is looked for: in the variables that its SDKs read."""

from collections.abc import Mapping
from typing import Final

from proxy.core.errors import CallerError

_GOOGLE: Final = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
_NAMES: Final[Mapping[str, tuple[str, ...]]] = {"gemini": _GOOGLE, "gemini-openai": _GOOGLE}
"""Variables of providers that have others than `NAME_API_KEY`; the first that is set counts."""


def key_names(provider: str, named: str | None) -> tuple[str, ...]:
    """Return the variables that may hold the key; only `named` if the user named one."""
    if named:
        return (named,)
    return _NAMES.get(provider, (f"{provider.upper().replace('-', '_')}_API_KEY",))


def read_key(provider: str, environ: Mapping[str, str], named: str | None = None) -> str:
    """Return the key that calls to `provider` are sent with.

    Raises:
        CallerError: naming the variables, if none is set or its value is no key.
    """
    names = key_names(provider, named)
    for name in names:
        if key := environ.get(name, "").strip():
            if not (key.isascii() and key.isprintable()):
                raise CallerError(f"{name} holds characters that no header can carry")
            return key
    raise CallerError(
        f"{' or '.join(names)} is not set: calls to {provider} need a key",
        hint="name the variable that holds it by --api-key-env",
    )
