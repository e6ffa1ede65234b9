"""Where Redis is, as a store URL says it.

    redis://user:password@host:port/database?option=value
    rediss://…                                  the same over TLS
    redis+sentinel://…@host:port,host:port/service/database
    redis+cluster://…@host:port,host:port

The client library has no URL for the last two, and takes every unknown option in
silence; hence a parser of our own for all four.
"""

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote

from proxy.core.authority import authority
from proxy.core.errors import ConfigError

Place = tuple[str, int]
"""Host and port."""

_PORTS: Final = {"redis": 6379, "rediss": 6379, "redis+cluster": 6379, "redis+sentinel": 26379}

_OPTIONS: Final = frozenset(
    {"tls", "ca", "timeout", "acks", "acks_timeout", "sentinel_username", "sentinel_password"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """How Redis is reached, and what an acknowledged write means there."""

    scheme: str
    places: tuple[Place, ...]
    """The server, or any of the sentinels or cluster nodes."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    service: str | None = None
    """What the sentinels call the master."""

    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca: str | None = None
    """File of the certificate authorities to trust; nothing: the machine's own."""

    timeout_s: float = 5.0
    """How long a group of commands may take, connecting included."""

    acks: int = 0
    """How many replicas must have a write before it counts as durable."""

    acks_timeout_s: float = 1.0

    @property
    def is_cluster(self) -> bool:
        """Whether slots are spread over several masters."""
        return self.scheme == "redis+cluster"

    @property
    def shown(self) -> str:
        """The beginning of the URL, without credentials and options."""
        return f"{self.scheme}://" + ",".join(authority(*place) for place in self.places)

    @classmethod
    def parse(cls, url: str) -> "RedisAddress":
        """Return what `url` says.

        Raises:
            ConfigError: if it cannot be used; the message shows no credential.
        """
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in _PORTS:
            raise ConfigError(f"store: must begin with one of {', '.join(_PORTS)}")
        rest, _, query = rest.partition("?")
        servers, _, path = rest.partition("/")
        credentials, at, hosts = servers.rpartition("@")
        username, colon, password = credentials.partition(":")
        options = _options(query)
        service, database = _path(scheme, path)
        places = _places(hosts, _PORTS[scheme])
        if len(places) > 1 and scheme in {"redis", "rediss"}:
            raise ConfigError("store: several hosts are redis+sentinel:// or redis+cluster://")
        tls = scheme == "rediss" or _flag(options, "tls")
        if "ca" in options and not tls:
            # Whoever names authorities believes that nothing goes in clear.
            raise ConfigError("store: option ca is for TLS: rediss://, or tls=true")
        return cls(
            scheme=scheme,
            places=places,
            username=unquote(username) or None,
            password=unquote(password) if at and colon else None,
            database=database,
            service=service,
            sentinel_username=options.get("sentinel_username"),
            sentinel_password=options.get("sentinel_password"),
            tls=tls,
            ca=options.get("ca"),
            timeout_s=_number(options, "timeout", default=5.0, least=0.1),
            acks=int(_number(options, "acks", default=0, least=0)),
            acks_timeout_s=_number(options, "acks_timeout", default=1.0, least=0.001),
        )


def _options(query: str) -> dict[str, str]:
    # A plus is no space, as it would be in a form: passwords have them.
    options = dict(parse_qsl(query.replace("+", "%2B"), keep_blank_values=True))
    for name in options:
        if name not in _OPTIONS:
            allowed = ", ".join(sorted(_OPTIONS))
            # Behind a bare question mark of a password there is no name.
            named = f" {name!r}" if name.isidentifier() else ""
            raise ConfigError(f"store: unknown option{named} in the URL; known are {allowed}")
    return options


def _places(hosts: str, usual: int) -> tuple[Place, ...]:
    places = []
    for one in hosts.split(","):
        # An IPv6 host stands in brackets (RFC 3986, section 3.2.2).
        host, bracket, port = one.rpartition("]")
        if bracket:
            host, port = host.removeprefix("["), port.removeprefix(":")
        else:
            host, _, port = one.partition(":")
        if not host or (port and not _is_port(port)):
            raise ConfigError("store: hosts must be host:port, separated by commas")
        places.append((host, int(port) if port else usual))
    return tuple(places)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) < 65_536


def _path(scheme: str, path: str) -> tuple[str | None, int]:
    """Return service and database."""
    parts = [unquote(part) for part in path.split("/") if part]
    service = None
    if scheme == "redis+sentinel":
        if not parts:
            raise ConfigError("store: must name the service: redis+sentinel://host:port/service")
        service = parts.pop(0)
    database = parts.pop(0) if parts else "0"
    if parts or not (database.isascii() and database.isdecimal()):
        raise ConfigError("store: the database must be a number, and the end of the path")
    if scheme == "redis+cluster" and database != "0":
        raise ConfigError("store: a cluster has database 0 only")
    return service, int(database)


def _flag(options: dict[str, str], name: str) -> bool:
    value = options.get(name, "false")
    if value not in {"true", "false"}:
        raise ConfigError(f"store: option {name} must be true or false")
    return value == "true"


def _number(options: dict[str, str], name: str, *, default: float, least: float) -> float:
    try:
        value = float(options.get(name, default))
    except ValueError:
        value = -1.0
    if not least <= value <= 3600:
        raise ConfigError(f"store: option {name} must be a number from {least:g} to 3600")
    return value
