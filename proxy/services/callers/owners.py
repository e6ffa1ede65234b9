"""Who calls, by hashes alone.

An owner is the keyed hash of a token's value, or the name that the configuration
gives to several. Whether a token is genuine is not known here: see `accounts`.
"""

import hmac
import json
from base64 import urlsafe_b64decode
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import unquote_plus

from proxy.core.dialects import (
    DIALECTS,
    Dialect,
    Family,
    Presented,
    credential_hash,
    presented_credential,
)
from proxy.core.fields import RawHeaders
from proxy.core.ids import ANONYMOUS, CredentialId, OwnerId
from proxy.core.upstream import Upstream
from proxy.ports.clock import KeyedHash
from proxy.ports.jobs import Credential

HELD: Final = ("offramp-held-key", "")
"""Stands in a stored credential where the upstream's own key is put in on reading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who makes a call, as far as its headers tell."""

    owner: OwnerId
    credential: Credential
    """What its deferred calls are made with; empty headers if it presented none."""

    anonymous: bool
    names: frozenset[str]
    """By what rules may name the owner: the configured name, if any, and the hash."""

    expires_at: datetime | None = None
    """When the token says that it ends, if it is one that says so."""

    twofold: str | None = None
    """The header of its credential that names two, so that nobody can tell whom to bill."""

    is_vouched: bool = False
    """Whether the configuration knows the token, so that no upstream has to."""


class Owners:
    """Tells callers apart. Holds no token, and compares in constant time."""

    def __init__(
        self,
        *,
        keyed_hash: KeyedHash,
        names: Mapping[str, str],
        held: Collection[str] = frozenset(),
    ) -> None:
        """`names` gives the owner's name for each configured `credential_hash`.

        `held` are the upstreams whose key is held here: callers there have shown a client token.
        """
        self._hash = keyed_hash
        self._names = dict(names)
        self._held = frozenset(held)

    def identify(self, presented: Presented | None, upstream: str) -> Caller:
        """Return who presents this at `upstream`."""
        if presented is None:
            credential_id = CredentialId(self._hash.digest("credential", upstream))
            credential = Credential(
                id=credential_id, owner=ANONYMOUS, upstream=upstream, headers=()
            )
            return Caller(owner=ANONYMOUS, credential=credential, anonymous=True, names=frozenset())
        owner, names = self._owner(presented.token)
        billing = [part for pair in presented.billing for part in pair]
        if upstream in self._held:
            held = Credential(
                id=CredentialId(self._hash.digest("held", upstream, owner, *billing)),
                owner=owner,
                upstream=upstream,
                headers=(HELD, *presented.billing),
            )
            return Caller(
                owner=owner,
                credential=held,
                anonymous=False,
                names=names,
                twofold=presented.twofold,
                is_vouched=True,
            )
        credential = Credential(
            id=CredentialId(self._hash.digest("credential", upstream, presented.token, *billing)),
            owner=owner,
            upstream=upstream,
            headers=presented.headers,
        )
        return Caller(
            owner=owner,
            credential=credential,
            anonymous=False,
            names=names,
            expires_at=token_expiry(presented.token),
            twofold=presented.twofold,
        )

    def of_request(self, headers: RawHeaders, target: str) -> tuple[OwnerId, ...]:
        """Return every owner that the headers prove, whichever provider they are meant for.

        A request about a job need not look like one to the job's upstream. Without any token it is
        the anonymous owner's. The first is the one whose new jobs would be. A token that the
        configuration names also proves the owner that it was before.
        """
        tokens = presented_tokens(headers, target)
        named = [self._owner(token)[0] for token in tokens]
        own = [self._hashed(token) for token in tokens]
        return tuple(dict.fromkeys(named + own)) or (ANONYMOUS,)

    def _owner(self, token: str) -> tuple[OwnerId, frozenset[str]]:
        hashed = self._hashed(token)
        # Every configured hash is compared, so that the time tells nothing of them.
        presented = credential_hash(token)
        matches = [
            name for known, name in self._names.items() if hmac.compare_digest(known, presented)
        ]
        owner = matches[0] if matches else hashed
        return OwnerId(owner), frozenset({owner, hashed, presented})

    def _hashed(self, token: str) -> OwnerId:
        """Return whose token it is where the configuration does not say."""
        return OwnerId(self._hash.digest("owner", token))


_FAMILIES: Final[tuple[Dialect, ...]] = tuple(
    {dialect.credential_headers: dialect for dialect in DIALECTS.values()}.values()
)
"""One of each that take their tokens from the same headers."""


def presented_tokens(headers: RawHeaders, target: str) -> tuple[str, ...]:
    """Return every token that a request shows, in whichever provider's place."""
    found = (
        presented_credential(dialect, headers, query_key=query_key(target)) for dialect in _FAMILIES
    )
    return tuple(dict.fromkeys(presented.token for presented in found if presented is not None))


def presented_to(upstream: Upstream, headers: RawHeaders, target: str) -> Presented | None:
    """Return the credential of a call to `upstream`; one in its query only where that is read."""
    dialect = DIALECTS[upstream.dialect]
    key = query_key(target) if dialect.family is Family.GEMINI else None
    return presented_credential(dialect, headers, query_key=key)


def owns(owner: OwnerId, owners: Iterable[OwnerId]) -> bool:
    """Return whether `owner` is one of `owners`, in a time that tells nothing of them."""
    wanted = owner.encode()
    return sum(hmac.compare_digest(wanted, candidate.encode()) for candidate in owners) > 0


def query_key(target: str) -> str | None:
    """Return the value of `?key=`, by which Gemini's API takes a credential."""
    _, _, query = target.partition("?")
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if name == "key" and value:
            return unquote_plus(value)
    return None


def token_expiry(token: str) -> datetime | None:
    """Return when a JSON Web Token ends (RFC 7519, `exp`); nothing for any other token.

    The signature is not checked: a lie harms only the liar's own job.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    header, claims = _claims(parts[0]), _claims(parts[1])
    if "alg" not in header:
        return None
    expires = claims.get("exp")
    if not isinstance(expires, int | float) or isinstance(expires, bool):
        return None
    try:
        return datetime.fromtimestamp(expires, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _claims(segment: str) -> Mapping[str, object]:
    try:
        decoded = json.loads(urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    except (ValueError, RecursionError):
        return {}
    return decoded if isinstance(decoded, dict) else {}
