"""Callers of upstreams whose key the proxy holds: who is let in, and to what.

Where the proxy holds a provider's key, a caller presents a token of its own in the
key's place: the token is taken out and the key put in, on the way to the upstream and
nowhere else. A token never goes to any upstream, and a call that shows none is not made.

Files, batches and stored answers belong to the key, so to all clients together. Hence a
client reaches what a model computes for it, and nothing else that the operator has not named.
"""

import hmac
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from fnmatch import translate
from typing import Final
from urllib.parse import unquote, unquote_plus

from proxy.core.clues import WEBSOCKET_KEY
from proxy.core.dialects import DIALECTS, Family, credential_hash, place_for
from proxy.core.errors import CallerError
from proxy.core.fields import RawHeaders
from proxy.core.ids import CredentialId, OwnerId
from proxy.core.routing import Route
from proxy.core.targets import without_credentials
from proxy.ports.jobs import Credential, CredentialStore
from proxy.services.callers.owners import HELD, presented_to, presented_tokens

_CREDENTIALS: Final = frozenset(
    name.encode() for dialect in DIALECTS.values() for name in dialect.credential_headers
)
"""Every field in which a token could stand, whatever provider's it is."""

_FREE: Final = re.compile(r"/v1/messages/count_tokens|/v1beta/models/[^/]+:countTokens")
"""What costs nothing and keeps nothing. Both are posted."""

_MODELS: Final = ("/v1/models", "/v1beta/models")

_BETWEEN_PARTS: Final = re.compile("[/?&;#]")
_BETWEEN_WORDS: Final = re.compile(r"[\s,;]+")


@dataclass(frozen=True, slots=True)
class HeldKey:
    """An upstream's key that the proxy holds, and who may use it."""

    header: tuple[str, str] = field(repr=False)
    """The field that presents it there."""

    clients: frozenset[str]
    """Hashes of the tokens that are let in."""

    paths: tuple[str, ...] = ()
    """Patterns of further paths that clients may call, with any method."""

    @classmethod
    def of(
        cls, dialect: str, key: str, *, clients: Iterable[str], paths: Iterable[str] = ()
    ) -> "HeldKey":
        """Return a key as its dialect presents it."""
        return cls(DIALECTS[dialect].key_header(key), frozenset(clients), tuple(paths))


@dataclass(frozen=True, slots=True)
class Exchange:
    """What changes in a client's call on its way to the upstream."""

    route: Route
    """The same, less credentials in the query."""

    without: frozenset[bytes]
    """Fields to take out, in lower case."""

    more: RawHeaders = field(repr=False)
    """Fields to put in."""


class Clients:
    """Lets callers in to upstreams whose key is held here."""

    def __init__(self, keys: Mapping[str, HeldKey]) -> None:
        """`keys` are those that are held, by upstream."""
        self._keys = keys
        self._known: list[str] = sorted({one for key in keys.values() for one in key.clients})
        self._hashes = frozenset(self._known)
        self._paths = {
            name: re.compile("|".join(translate(path) for path in key.paths))
            for name, key in keys.items()
            if key.paths
        }
        self._more = {
            name: ((key.header[0].title().encode(), key.header[1].encode("latin-1")),)
            for name, key in keys.items()
        }

    def admit(self, method: str, headers: RawHeaders, route: Route) -> Exchange | None:
        """Return what to exchange in a call; nothing where its caller's own key goes on.

        Raises:
            CallerError: if it may not be made: 401 without a token that is known, 403 with
                one that is not for this upstream, or this path.
        """
        if not self._keys:
            return None
        here = route.upstream.name
        key = self._keys.get(here)
        if key is None or not self._is_let_in(key, headers, route):
            if self._shows_client(headers, route):
                raise _forbidden(f"this client token is not for upstream {here!r}")
            if key is None:
                return None
            raise CallerError(
                f"upstream {here!r} takes a client token in place of a key; "
                "this call has none that is known",
                code="invalid_client_token",
                http_status=401,
            )
        self._check_path(method, route)
        target = without_credentials(route.upstream_target)
        more = tuple(pair for pair in headers if pair[0].lower() not in _CREDENTIALS)
        if self._holds_client(more, target):
            raise _forbidden("this call shows a client token twice: the second would go on")
        return Exchange(Route(route.upstream, target), _CREDENTIALS, self._more[here])

    def _shows_client(self, headers: RawHeaders, route: Route) -> bool:
        shown = (*presented_tokens(headers, route.upstream_target), *_socket_tokens(headers))
        return sum(_is_one_of(self._known, token) for token in shown) > 0 or self._holds_client(
            headers, route.upstream_target
        )

    def _holds_client(self, headers: RawHeaders, target: str) -> bool:
        """Return whether a client's token stands anywhere in what would go to an upstream."""
        # Comparing dozens of words with each hash would take too long; what the time of a look-up
        # tells about hashes brings nobody nearer to a token.
        return any(credential_hash(word) in self._hashes for word in _words(headers, target))

    def _is_let_in(self, key: HeldKey, headers: RawHeaders, route: Route) -> bool:
        """Return whether the token in the place of the upstream's key is a client's."""
        if _socket_tokens(headers):
            # It would go on with the subprotocols, which are the caller's and the upstream's.
            return False
        presented = presented_to(route.upstream, headers, route.upstream_target)
        return presented is not None and _is_one_of(key.clients, presented.token)

    def _check_path(self, method: str, route: Route) -> None:
        upstream = route.upstream
        path = upstream.path_of(route.upstream_target).partition("?")[0]
        named = self._paths.get(upstream.name)
        if _is_plain(path) and (
            (method == "POST" and place_for(DIALECTS[upstream.dialect], path) is not None)
            or (method == "POST" and _FREE.fullmatch(path))
            or (method == "GET" and _is_model(path, DIALECTS[upstream.dialect].family))
            or (named is not None and named.match(path))
        ):
            return
        raise _forbidden(
            f"client tokens do not reach this path of {upstream.name!r}: what is kept there "
            f"belongs to all clients (upstreams.{upstream.name}.client_paths names more)"
        )


def _socket_tokens(headers: RawHeaders) -> list[str]:
    """Return the token of a browser's WebSocket, which can set no other field than this."""
    return [
        word.strip().removeprefix(WEBSOCKET_KEY).decode("latin-1")
        for name, value in headers
        if name.lower() == b"sec-websocket-protocol"
        for word in value.split(b",")
        if WEBSOCKET_KEY in word
    ]


def _words(headers: RawHeaders, target: str) -> Iterator[str]:
    """Find all that could be a token: words of fields, parts of the target, and their values."""
    pieces = _BETWEEN_PARTS.split(target)
    for _, value in headers:
        pieces += _BETWEEN_WORDS.split(value.decode("latin-1"))
    for piece in pieces:
        for word in (piece, piece.partition("=")[2]):
            if word:
                yield word.strip('"')
                if "%" in word or "+" in word:
                    yield unquote(word)
                    yield unquote_plus(word)


def _is_one_of(hashes: Iterable[str], token: str) -> bool:
    hashed = credential_hash(token)
    # Every one is compared, so that the time tells nothing of them.
    return sum(hmac.compare_digest(one, hashed) for one in hashes) > 0


def _forbidden(message: str) -> CallerError:
    return CallerError(message, code="client_not_allowed", http_status=403)


def _is_model(path: str, family: Family) -> bool:
    for models in _MODELS:
        if path == models:
            return True
        if path.startswith(f"{models}/"):
            # Gemini keeps operations below a model; elsewhere its name may have a slash.
            below = path[len(models) + 1 :]
            return family is not Family.GEMINI or not ("/" in below or ":" in below)
    return False


def _is_plain(path: str) -> bool:
    """Tell whether every server reads the path as it stands: no dots, escapes, empty segments."""
    return not any(odd in path for odd in ("//", "/.", "%", "\\", ";"))


class HeldCredentials(CredentialStore):
    """A store of credentials in which held keys are put in on reading, and never kept.

    So a key that was replaced in the configuration serves the jobs that are pending.
    """

    def __init__(self, store: CredentialStore, keys: Mapping[str, HeldKey]) -> None:
        self._store = store
        self._keys = keys

    def _filled(self, credential: Credential) -> Credential:
        if HELD not in credential.headers:
            return credential
        key = self._keys.get(credential.upstream)
        # Without a key the provider refuses the call, which pauses the lane and says so.
        own = () if key is None else (key.header,)
        rest = tuple(pair for pair in credential.headers if pair != HELD)
        return replace(credential, headers=own + rest)

    async def remember(self, credential: Credential) -> None:
        await self._store.remember(credential)

    async def get(self, credential_id: CredentialId) -> Credential | None:
        found = await self._store.get(credential_id)
        return None if found is None else self._filled(found)

    async def of_owner(self, owner: OwnerId, upstream: str) -> Sequence[Credential]:
        return [self._filled(one) for one in await self._store.of_owner(owner, upstream)]

    async def all(self) -> Sequence[Credential]:
        return [self._filled(one) for one in await self._store.all()]

    async def accepted(self, credential_id: CredentialId, *, at: datetime) -> None:
        await self._store.accepted(credential_id, at=at)

    async def pause(
        self, credential_id: CredentialId, *, at: datetime, status: int | None, body: bytes | None
    ) -> None:
        await self._store.pause(credential_id, at=at, status=status, body=body)

    async def forget_unused(self, *, limit: int) -> int:
        return await self._store.forget_unused(limit=limit)
