"""What a call presents to be let in, by the headers that its dialect names."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from proxy.core.dialects.records import Dialect
from proxy.core.fields import RawHeaders


@dataclass(frozen=True, slots=True)
class Presented:
    """What a call presents to be let in and billed by. Never logged, never shown."""

    token: str
    """The token's value alone: scheme and header name removed."""

    headers: tuple[tuple[str, str], ...]
    """The header fields that make a call of the same credential, in lower case."""

    billing: tuple[tuple[str, str], ...]

    twofold: str | None = None
    """One of these headers that came with two values, of which the first was taken."""

    def __repr__(self) -> str:
        return "Presented(…)"


def presented_credential(
    dialect: Dialect, headers: RawHeaders, *, query_key: str | None = None
) -> Presented | None:
    """Return the credential of a call, or nothing if it has none.

    `query_key` is the value of `?key=`, which Gemini accepts in place of a header.
    """
    wanted = (*dialect.credential_headers, *dialect.billing_headers)
    found: dict[str, str] = {}
    twofold: set[str] = set()
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1").lower()
        if name in wanted:
            value = raw_value.decode("latin-1").strip()
            if found.setdefault(name, value) != value:
                twofold.add(name)
    billing = tuple((name, found[name]) for name in dialect.billing_headers if name in found)
    for name in dialect.credential_headers:
        shown = found.get(name)
        if not shown:
            continue
        token = shown
        if name == "authorization":
            _, _, token = shown.partition(" ")
        token = token.strip()
        if token:
            fields = ((name, shown), *billing)
            doubtful = next((used for used, _ in fields if used in twofold), None)
            return Presented(token, fields, billing, doubtful)
    if query_key:
        return Presented(query_key, (("x-goog-api-key", query_key), *billing), billing)
    return None


def credential_hash(token: str) -> str:
    """Return a token's hash as the configuration names it.

    Plain SHA-256, so that it can be made anywhere. Providers' tokens are long and
    random, hence not to be found by trying; they are not passwords.
    """
    digest = hashlib.sha256(token.encode("utf-8", "surrogateescape"))
    return f"sha256:{digest.hexdigest()}"


def pick_headers(names: Iterable[str], headers: RawHeaders) -> tuple[tuple[str, str], ...]:
    """Return the named header fields in lower case and sorted, e.g. for a batch key.

    Several fields of one name are one list (RFC 9110, section 5.3): `anthropic-beta` may
    come twice, and a call is made again of one field for each name.
    """
    wanted = frozenset(names)
    if not wanted:
        return ()
    found: dict[str, set[str]] = {}
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1").lower()
        if name in wanted:
            found.setdefault(name, set()).add(raw_value.decode("latin-1").strip())
    return tuple(sorted((name, ", ".join(sorted(values))) for name, values in found.items()))
