"""Which upstream a call belongs to, and the target it is sent there with.

The only source of truth is the raw request target, as it stood in the request
line: it is never decoded and never normalised, so what one part of the service
decides about a path is what the upstream will see. The sole exception is the
`/v1` that SDKs forget or double, in paths where that cannot mean anything else.

Rule: a credential never reaches a provider that visibly is not its own.
"""

from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_plus, urlsplit

from proxy.core.dialects import DIALECTS, Family
from proxy.core.errors import CallerError, ConfigError

RawHeaders = tuple[tuple[bytes, bytes], ...]
"""Header fields in order, names as spelled on the wire, values without outer whitespace."""

OPENAI_PATHS: Final = frozenset(
    {
        "assistants",
        "audio",
        "batches",
        "chat",
        "completions",
        "containers",
        "conversations",
        "embeddings",
        "evals",
        "files",
        "fine_tuning",
        "images",
        "models",
        "moderations",
        "organization",
        "realtime",
        "responses",
        "threads",
        "uploads",
        "vector_stores",
        "videos",
    }
)
"""First path segments below `/v1` (OpenAI API, openapi.yaml, `paths`)."""

RESERVED_NAMES: Final = (
    frozenset({"v1", "v1beta", "jobs", "upload", "download", "messages"}) | OPENAI_PATHS
)
"""First segments that calls without a prefix begin with; no upstream may be called so."""

_NAME_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")

# Shapes of tokens as the vendors document them, with the dialect and the host
# they belong to. Plain `sk-` is nobody's: half of the OpenAI clones issue it.
_TOKEN_SHAPES: Final = (
    (b"sk-ant-", "anthropic", "anthropic.com"),
    (b"sk-proj-", "openai", "openai.com"),
    (b"sk-svcacct-", "openai", "openai.com"),
    (b"sk-admin-", "openai", "openai.com"),
    (b"AIza", "gemini", "googleapis.com"),
    (b"ya29.", "gemini", "googleapis.com"),
    (b"gsk_", "groq", "groq.com"),
    (b"sk-or-", "openrouter", "openrouter.ai"),
)
_TOKEN_STARTS: Final = tuple(shape for shape, _, _ in _TOKEN_SHAPES)

# Headers that only one provider reads, and so say whose credential they carry.
_OWN_HEADERS: Final = {
    b"x-goog-api-key": ("gemini", "googleapis.com"),
    b"api-key": ("azure", "azure.com"),
}

# Browsers cannot set headers on a WebSocket, so the OpenAI Realtime API takes
# the key as a subprotocol (OpenAI API, "Realtime API with WebSockets").
_WEBSOCKET_KEY: Final = b"openai-insecure-api-key."

_CREDENTIAL_PARAMETERS: Final = frozenset(
    {
        "access_token",
        "api-key",
        "api_key",
        "apikey",
        "key",
        "oauth_token",
        "sig",
        "subscription-key",
        "token",
        "x-api-key",
        "x-goog-api-key",
    }
)


@dataclass(frozen=True, slots=True)
class Upstream:
    """A host that forwarded calls go to. Made by `Upstream.parse`, at start."""

    name: str
    dialect: str
    base_url: str
    scheme: str
    host: str
    port: int
    base_path: str
    """Put before every target, without a slash at its end; mostly empty."""
    host_header: bytes
    """What the upstream sees in `Host`: the port is named only if it is unusual."""
    family: Family
    is_versioned: bool
    """Whether the base path stands for the `/v1` of the dialect's paths."""
    is_at_root: bool
    """Whether the base path is the one that the provider has for everybody."""
    credential_headers: frozenset[bytes]
    """Where its callers may put their tokens, whatever these headers mean elsewhere."""

    @classmethod
    def parse(cls, name: str, dialect: str, base_url: str) -> "Upstream":
        """Split `base_url` once, at start, so that no call ever builds a URL.

        Raises:
            ConfigError: if the name is reserved or the URL is not a plain
                `http(s)://host[:port][/path]` without credentials or query.
        """
        check_upstream_name(name)
        try:
            parts = urlsplit(base_url)
            host, port = parts.hostname, parts.port
        except ValueError as exc:
            raise ConfigError(f"upstream {name!r}: base_url cannot be read: {exc}") from exc
        if parts.scheme not in {"http", "https"} or not host:
            raise ConfigError(f"upstream {name!r}: base_url must be http(s)://host[:port][/path]")
        if "@" in parts.netloc or "?" in base_url or "#" in base_url:
            raise ConfigError(f"upstream {name!r}: base_url carries credentials, query or fragment")
        if not base_url.isascii() or not base_url.isprintable() or " " in base_url:
            raise ConfigError(f"upstream {name!r}: base_url must be printable ASCII, punycode host")
        default_port = 443 if parts.scheme == "https" else 80
        authority = f"[{host}]" if ":" in host else host
        if port is not None and port != default_port:
            authority = f"{authority}:{port}"
        row = DIALECTS[dialect]
        base_path = parts.path.rstrip("/") or row.root
        return cls(
            name=name,
            dialect=dialect,
            base_url=base_url,
            scheme=parts.scheme,
            host=host,
            port=port if port is not None else default_port,
            base_path=base_path,
            host_header=authority.encode("ascii"),
            family=row.family,
            is_versioned=base_path.endswith(("/v1", row.root) if "/v1" in row.root else "/v1"),
            is_at_root=base_path == row.root,
            credential_headers=frozenset(name.encode() for name in row.credential_headers),
        )

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{self.scheme}://{self.host_header.decode('ascii')}"

    def target_of(self, path: str) -> str:
        """Return the target at this host of a path of the dialect, e.g. `/v1/models`."""
        # Not of `/v1beta`, which is a version of its own.
        repeats = self.is_versioned and _begins(path, "/v1")
        return self.base_path + (path.removeprefix("/v1") if repeats else path)

    def path_of(self, target: str) -> str:
        """Return the dialect's path of a target at this host, with its query."""
        rest = target[len(self.base_path) :]
        return f"/v1{rest}" if self.is_versioned else rest


@dataclass(frozen=True, slots=True)
class Route:
    """Where a call goes, and the raw target it is sent there with."""

    upstream: Upstream
    upstream_target: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call is not forwarded, in words for its caller; it names no credential."""

    status: int
    code: str
    message: str
    dialect: str | None = None
    """Whose error shape the caller understands, where that is known."""

    def error(self) -> CallerError:
        """Return the refusal as the error to answer with."""
        return CallerError(self.message, code=self.code, http_status=self.status)


@dataclass(slots=True)
class _Clues:
    """What one pass over the headers tells about the intended provider."""

    goog_key: bool = False
    anthropic: bool = False
    bearer: bool = False


def resolve(target: str, headers: RawHeaders, upstreams: Mapping[str, Upstream]) -> Route | Refusal:
    """Return where a call goes, or why it goes nowhere.

    `target` is the request target as received (undecodable bytes as surrogate
    escapes), `upstreams` are all configured ones by name.
    """
    if not target.startswith("/"):
        return _refuse_form(target)
    route = _by_prefix(target, upstreams) or _by_inference(target, headers, upstreams)
    if route is None:
        return _refuse_unknown(upstreams)
    owner = _foreign_credential(target, headers, route.upstream)
    if owner is not None:
        return _refuse_credential(owner, route.upstream)
    return route


def check_upstream_name(name: str) -> None:
    """Refuse a name that could not be told from a path, or that hides one.

    Raises:
        ConfigError: naming the name and what is wrong with it.
    """
    if name in RESERVED_NAMES:
        raise ConfigError(f"upstream name {name!r} is reserved: calls without a prefix begin so")
    if not name or len(name) > 64 or not _NAME_CHARACTERS.issuperset(name):
        raise ConfigError(
            f"upstream name {name!r} must be 1 to 64 characters of a-z, 0-9, '-', '_' and '.'"
        )
    if name[0] in "-_.":
        raise ConfigError(f"upstream name {name!r} must begin with a letter or digit")


def without_credentials(target: str) -> str:
    """Return the target with every credential parameter cut out of its query.

    For storing, hashing and logging; what is left stays byte for byte, in
    order. Names are compared decoded and without case, as servers do, so that
    `?%6Bey=` does not slip through.
    """
    path, mark, query = target.partition("?")
    if not mark:
        return target
    kept = [pair for pair in query.split("&") if not _is_credential(pair)]
    if len(kept) == query.count("&") + 1:
        return target
    return f"{path}?{'&'.join(kept)}" if kept else path


def _is_credential(pair: str) -> bool:
    name = pair.partition("=")[0]
    return unquote_plus(name, errors="replace").strip().lower() in _CREDENTIAL_PARAMETERS


def _by_prefix(target: str, upstreams: Mapping[str, Upstream]) -> Route | None:
    first = target.split("/", 2)[1]
    if "?" in first:
        first = first.partition("?")[0]
    upstream = upstreams.get(first)
    if upstream is None:
        return None
    rest = target[len(first) + 1 :]
    # Azure's own paths begin with `/openai/deployments`, so `openai` alone is
    # not yet the prefix.
    if first == "openai" and not _begins(rest, "/v1"):
        return None
    return Route(upstream, _upstream_target(upstream, rest))


def _by_inference(
    target: str, headers: RawHeaders, upstreams: Mapping[str, Upstream]
) -> Route | None:
    clues = _clues(headers)
    if _is_gemini_path(target) or clues.goog_key or _has_key_parameter(target):
        dialect = "gemini"
    elif clues.anthropic or _is_messages_path(target):
        dialect = "anthropic"
    elif clues.bearer and _is_openai_path(target):
        dialect = "openai"
    else:
        return None
    upstream = upstreams.get(dialect) or next(
        (other for other in upstreams.values() if other.dialect == dialect), None
    )
    return Route(upstream, _upstream_target(upstream, target)) if upstream else None


def _upstream_target(upstream: Upstream, rest: str) -> str:
    """Join base path and raw rest by string, with the one tolerance for `/v1`."""
    base = upstream.base_path
    if not base and rest.startswith("/v1/") and not rest.startswith("/v1/", 3):
        return rest
    if base and upstream.is_at_root and _begins(rest, base):
        # An SDK that was given the provider's whole path below our prefix.
        rest = rest[len(base) :]
    elif upstream.is_at_root and not upstream.is_versioned and upstream.family in _V1_FAMILIES:
        while rest.startswith("/v1/v1/"):
            rest = rest[3:]
        if _lacks_v1(rest, upstream.family):
            rest = "/v1" + rest
    if upstream.is_versioned:
        # `base_url: …/v1` and an SDK that adds its own `/v1`.
        while _begins(rest, "/v1"):
            rest = rest[3:]
    if not rest.startswith("/"):
        # Only a bare prefix leaves nothing before the query; an empty path is
        # sent as "/" (RFC 9112, section 3.2.1).
        rest = rest if base else "/" + rest
    return base + rest


_V1_FAMILIES: Final = frozenset({Family.OPENAI, Family.ANTHROPIC})


def _lacks_v1(rest: str, family: Family) -> bool:
    segment = rest[1 : _segment_end(rest, 1)]
    if family is Family.ANTHROPIC:
        return segment == "messages"
    return segment in OPENAI_PATHS


def _segment_end(target: str, start: int) -> int:
    slash = target.find("/", start)
    query = target.find("?", start)
    if slash < 0:
        slash = len(target)
    return slash if query < 0 or slash < query else query


def _begins(target: str, path: str) -> bool:
    """Tell whether `target` is `path` or lies below it, on a segment's boundary."""
    return target.startswith(path) and (len(target) == len(path) or target[len(path)] in "/?")


def _is_gemini_path(target: str) -> bool:
    if target.startswith(("/v1beta", "/upload/v1beta", "/download/v1beta")):
        return any(_begins(target, f"{way}/v1beta") for way in ("", "/upload", "/download"))
    if not target.startswith("/v1/models/"):
        return False
    model, colon, verb = target[11:].partition("?")[0].rpartition(":")
    # A fine-tuned OpenAI model has colons in its very name: `ft:gpt-4o:acme::abc`.
    return bool(colon) and verb.isalpha() and not model.startswith("ft:")


def _has_key_parameter(target: str) -> bool:
    _, mark, query = target.partition("?")
    return bool(mark) and (query.startswith("key=") or "&key=" in query)


def _is_messages_path(target: str) -> bool:
    while _begins(target, "/v1"):
        target = target[3:]
    if not target.startswith("/messages"):
        return False
    rest = target[9:].partition("?")[0]
    return rest in {"", "/count_tokens"} or _begins(rest, "/batches")


def _is_openai_path(target: str) -> bool:
    return target.startswith("/v1/") or target[1 : _segment_end(target, 1)] in OPENAI_PATHS


def _clues(headers: RawHeaders) -> _Clues:
    clues = _Clues()
    for name, value in headers:
        match _TELLING[name]:
            case None:
                continue
            case b"authorization":
                clues.bearer = clues.bearer or value[:7].lower() == b"bearer "
            case b"x-goog-api-key":
                clues.goog_key = True
            case b"anthropic-version" | b"x-api-key":
                clues.anthropic = True
            case b"sec-websocket-protocol":
                clues.bearer = clues.bearer or _WEBSOCKET_KEY in value
    return clues


def _foreign_credential(target: str, headers: RawHeaders, upstream: Upstream) -> str | None:
    """Return the dialect whose credential this is, if it is not the upstream's."""
    for name, value in headers:
        lowered = _TELLING[name]
        if lowered is None:
            continue
        tokens_of = _TOKEN_SOURCES.get(lowered)
        if tokens_of is None:
            continue
        own = None if lowered in upstream.credential_headers else _OWN_HEADERS.get(lowered)
        if own is not None and not _belongs(upstream, *own):
            return own[0]
        owner = _foreign_token(tokens_of(value), upstream)
        if owner is not None:
            return owner
    if "?" in target:
        return _foreign_token(_query_tokens(target), upstream)
    return None


def _foreign_token(tokens: list[bytes], upstream: Upstream) -> str | None:
    for token in tokens:
        # One C call settles the common case: a shape that is nobody's.
        if not token.startswith(_TOKEN_STARTS):
            continue
        for shape, dialect, host in _TOKEN_SHAPES:
            if token.startswith(shape) and not _belongs(upstream, dialect, host):
                return dialect
    return None


def _belongs(upstream: Upstream, dialect: str, host: str) -> bool:
    return (
        upstream.dialect == dialect or upstream.host == host or upstream.host.endswith(f".{host}")
    )


def _authorization_tokens(value: bytes) -> list[bytes]:
    """Return every word of an Authorization value, whatever its scheme."""
    words = value.split()
    if len(words) == 2 and words[0].lower() == b"basic":
        try:
            return b64decode(words[1]).split(b":")
        except ValueError:
            return words
    return words


def _websocket_tokens(value: bytes) -> list[bytes]:
    return [word.strip().removeprefix(_WEBSOCKET_KEY) for word in value.split(b",")]


def _query_tokens(target: str) -> list[bytes]:
    pairs = target.partition("?")[2].split("&")
    values = [pair.partition("=")[2] for pair in pairs if _is_credential(pair)]
    return [unquote_plus(value).encode("utf-8", "surrogateescape") for value in values]


_TOKEN_SOURCES: Final[dict[bytes, Callable[[bytes], list[bytes]]]] = {
    b"authorization": _authorization_tokens,
    b"proxy-authorization": _authorization_tokens,
    b"x-api-key": bytes.split,
    b"x-goog-api-key": bytes.split,
    b"api-key": bytes.split,
    b"sec-websocket-protocol": _websocket_tokens,
}

_CLUES: Final = frozenset(
    {
        *(b"authorization", b"x-goog-api-key", b"anthropic-version", b"x-api-key"),
        b"sec-websocket-protocol",
    }
)


class _TellingNames(dict[bytes, bytes | None]):
    """Field names as spelled: in lower case if they tell anything here, else nothing.

    Every name of every call is looked up here, so each is lowered and compared
    once only. The answer follows from the name alone and so is never outdated;
    what callers can make it hold is bounded.
    """

    MAX_NAMES: Final = 1024
    MAX_NAME_BYTES: Final = 64

    def __missing__(self, name: bytes) -> bytes | None:
        lowered = name.lower()
        telling = lowered if lowered in _TOKEN_SOURCES or lowered in _CLUES else None
        if len(name) <= self.MAX_NAME_BYTES:
            if len(self) >= self.MAX_NAMES:
                self.clear()
            self[name] = telling
        return telling


_TELLING: Final = _TellingNames()


def _refuse_form(target: str) -> Refusal:
    if target == "*":
        form = "asterisk-form ('*')"
    elif "://" in target:
        form = "absolute-form ('http://host/path')"
    else:
        form = "authority-form ('host:port')"
    return Refusal(
        400,
        "bad_request_target",
        f"the request target is in {form}; this is no forward proxy: set it as the base URL",
    )


def _refuse_unknown(upstreams: Mapping[str, Upstream]) -> Refusal:
    prefixes = ", ".join(
        f"/{name}/v1" if name == "openai" else f"/{name}" for name in sorted(upstreams)
    )
    return Refusal(
        404, "unknown_upstream", f"no upstream follows from this call; use a prefix: {prefixes}"
    )


def _refuse_credential(owner: str, upstream: Upstream) -> Refusal:
    return Refusal(
        421,
        "foreign_credential",
        f"the credential is one for {owner}, the call goes to {upstream.name!r}; "
        "it was not forwarded",
        dialect=upstream.dialect,
    )
