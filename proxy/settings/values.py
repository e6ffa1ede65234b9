"""The kinds of values that a configuration holds, each parsed from text in one place.

Every parser says in its error what it takes instead; the loader adds the place,
the key and the value. A value that may hold a secret shows itself as `***`.
"""

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field

from policies.windows import parse_span, parse_zone
from proxy.core.authority import authority

_DURATION_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_DURATION: Final = re.compile(rf"(?:{_DURATION_PART.pattern})+")
_LONGEST: Final = timedelta(days=36_500)
"""A century. What is kept for longer than there are dates would stop the pass that prunes."""

_SIZE_UNITS: Final = {
    "": 1,
    "B": 1,
    "KB": 1_000,
    "MB": 1_000_000,
    "GB": 1_000_000_000,
    "KIB": 1 << 10,
    "MIB": 1 << 20,
    "GIB": 1 << 30,
}
_SIZE: Final = re.compile(r"([0-9]+) ?([KMG]?I?B)?")

_TOKEN_HASH: Final = re.compile(r"sha256:[0-9a-f]{64}")

STORE_SCHEMES: Final = ("sqlite", "redis", "rediss", "redis+sentinel", "redis+cluster")

# Standard Webhooks, specification, "Signature scheme": a secret is base64 of 24
# to 64 bytes, mostly written with this prefix.
_WEBHOOK_PREFIX: Final = "whsec_"
_WEBHOOK_BYTES: Final = range(24, 65)


def parse_duration(value: object) -> timedelta:
    """Return a duration such as `500ms`, `10s`, `5m`, `1h30m` or `1d`."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or not _DURATION.fullmatch(value.strip()):
        raise ValueError("must be a duration: a number and ms, s, m, h or d, e.g. 10s, 5m, 1h30m")
    seconds = sum(
        float(number) * _DURATION_UNITS[unit] for number, unit in _DURATION_PART.findall(value)
    )
    if seconds > _LONGEST.total_seconds():
        raise ValueError(f"must be a duration of at most {duration_text(_LONGEST)}")
    return timedelta(seconds=seconds)


def duration_text(value: timedelta) -> str:
    """Return `value` exactly, as `parse_duration` reads it."""
    parts = []
    rest = round(value / timedelta(milliseconds=1))
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    if rest or not parts:
        parts.append(f"{rest}ms" if rest else "0s")
    return "".join(parts)


def parse_size(value: object) -> int:
    """Return a number of bytes from an integer or a text such as `64MB` or `1GiB`."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = _SIZE.fullmatch(value.strip().upper()) if isinstance(value, str) else None
    if found is None:
        raise ValueError("must be a number of bytes, e.g. 1048576, 64MB or 1GiB")
    return int(found[1]) * _SIZE_UNITS[found[2] or ""]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener binds. Port 0 lets the system choose one."""

    host: str
    port: int

    def __str__(self) -> str:
        return authority(self.host, self.port)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(value: object) -> Address:
    """Return an address such as `127.0.0.1:8080`, `[::1]:8080` or `localhost:0`."""
    if isinstance(value, Address):
        return value
    problem = "must be host:port with a port of 0 to 65535, e.g. 127.0.0.1:8080 or [::]:8080"
    if not isinstance(value, str):
        raise ValueError(problem)  # noqa: TRY004 - only a ValueError becomes a complaint
    host, colon, port = value.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{problem}; an IPv6 host stands in brackets")
    if not colon or not host or not port.isascii() or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(problem)
    return Address(host, int(port))


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """Where the durable state lies."""

    scheme: str
    url: str = field(repr=False)
    """As configured; a Redis URL may hold a password, so show `str()` instead."""

    path: Path | None = None
    """The SQLite file; nothing for Redis."""

    def __str__(self) -> str:
        return hide_secrets(self.url)

    @property
    def is_redis(self) -> bool:
        """Whether a fleet can share it."""
        return self.path is None


def parse_store(value: object) -> StoreUrl:
    """Return a store from `sqlite:///absolute/path`, `sqlite:relative/path` or a Redis URL."""
    if isinstance(value, StoreUrl):
        return value
    schemes = ", ".join(STORE_SCHEMES)
    scheme, colon, rest = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not colon or scheme not in STORE_SCHEMES:
        raise ValueError(f"must be a URL that begins with one of {schemes}")
    url = f"{scheme}:{rest}"
    if scheme == "sqlite":
        return StoreUrl(scheme, url, _sqlite_path(rest))
    _, _, place = rest.partition("//")
    authority, _, path = place.partition("?")[0].partition("/")
    if "@" in path:
        raise ValueError("a user or password in it must be percent-encoded: / is %2F, ? is %3F")
    if not rest.startswith("//") or not authority.rpartition("@")[2]:
        raise ValueError(f"must name a host: {scheme}://host:port/database")
    return StoreUrl(scheme, url)


def _sqlite_path(rest: str) -> Path:
    # An absolute file URL has an empty authority (RFC 8089, section 2). The
    # fourth slash that another convention asks for does no harm.
    if rest.startswith("//"):
        if not rest.startswith("///"):
            raise ValueError("must be sqlite:///absolute/path.db, with three slashes")
        rest = "/" + rest.lstrip("/")
    if not rest.strip("/") or rest == ":memory:" or "?" in rest or "#" in rest:
        raise ValueError("must name a file: jobs have to outlive the process")
    if rest.endswith("/"):
        raise ValueError("must name a file, not a directory")
    return Path(rest)


def parse_token_hash(value: object) -> str:
    """Return a token's hash in lower case."""
    text = value.strip().lower() if isinstance(value, str) else ""
    if not _TOKEN_HASH.fullmatch(text):
        raise ValueError(
            "must be the hash of a token, sha256:<64 hex digits>, as `offramp credential hash` "
            "prints it; never the token itself"
        )
    return text


def webhook_key(secret: str) -> bytes:
    """Return the signing key that a webhook secret stands for.

    Raises:
        ValueError: if it is empty, no base64, or too short to be safe.
    """
    text = secret.strip().removeprefix(_WEBHOOK_PREFIX)
    if not text:
        raise ValueError("must not be empty: anyone could sign as us")
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) not in _WEBHOOK_BYTES:
        raise ValueError("must be base64 of 24 to 64 bytes, e.g. from `openssl rand -base64 32`")
    return key


def provider_key(text: str) -> str:
    """Return a provider's key without the line's end around it.

    Raises:
        ValueError: if it is empty, or nothing that a header could carry.
    """
    key = text.strip()
    if not key or not all("!" <= letter <= "~" for letter in key):
        raise ValueError("must be one key: printable ASCII without spaces")
    return key


def hide_secrets(url: str) -> str:
    """Return `url` with user information and query values replaced by `***`.

    A password may be in there unescaped. Where it could be anywhere, all is hidden but the scheme.
    """
    head, mark, rest = url.partition("://")
    if not mark:
        # Mistyped, perhaps, by one slash: `redis:/user:password@host`.
        before, at, place = url.rpartition("@")
        return f"***@{place}" if at and ":" in before else url
    shown, question, values = rest.partition("?")
    if "@" in values:
        return f"{head}://***"
    # Up to the last @: a password may hold one, or a slash.
    _, at, place = shown.rpartition("@")
    return f"{head}://{'***@' if at else ''}{place}{'?***' if question else ''}"


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be more than 0s")
    return value


def _read_by(parse: Callable[[str], object]) -> AfterValidator:
    """Return what checks that `parse`, whose error says what it takes, can read a text."""

    def check(text: str) -> str:
        try:
            parse(text)
        except ValueError as exc:
            raise ValueError(f"must be {exc}") from None
        return text

    return AfterValidator(check)


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
PositiveDuration = Annotated[Duration, AfterValidator(_positive)]
Size = Annotated[int, BeforeValidator(parse_size)]
Count = Annotated[int, Field(ge=1)]
PerSecond = Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)]
Hours = Annotated[str, _read_by(parse_span)]
Zone = Annotated[str, _read_by(parse_zone)]
ListenAddress = Annotated[Address, BeforeValidator(parse_address)]
Store = Annotated[StoreUrl, BeforeValidator(parse_store)]
TokenHash = Annotated[str, BeforeValidator(parse_token_hash)]
