"""A host that calls are forwarded to: its name, its address and the prefix of its paths."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from proxy.core.authority import authority
from proxy.core.dialects import DIALECTS, Family
from proxy.core.errors import ConfigError
from proxy.core.targets import OPENAI_PATHS, begins

RESERVED_NAMES: Final = (
    frozenset({"v1", "v1beta", "jobs", "upload", "download", "messages"}) | OPENAI_PATHS
)
"""First segments that calls without a prefix begin with; no upstream may be called so."""

_NAME_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")


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
    own_root: str
    """That one, if the base path ends with it or its `/v1`, as behind a gateway with names."""
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
        row = DIALECTS[dialect]
        base_path = parts.path.rstrip("/") or row.root
        if row.has_files_beside_root and not base_path.endswith(row.root):
            raise ConfigError(
                f"upstream {name!r}: base_url must end with {row.root}, beside which its batches"
                " have their files"
            )
        return cls(
            name=name,
            dialect=dialect,
            base_url=base_url,
            scheme=parts.scheme,
            host=host,
            port=port if port is not None else default_port,
            base_path=base_path,
            host_header=authority(host, None if port == default_port else port).encode("ascii"),
            family=row.family,
            is_versioned=base_path.endswith(("/v1", row.root) if "/v1" in row.root else "/v1"),
            is_at_root=base_path == row.root,
            own_root=row.root if base_path.removesuffix("/v1").endswith(row.root) else "",
            credential_headers=frozenset(name.encode() for name in row.credential_headers),
        )

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{self.scheme}://{self.host_header.decode('ascii')}"

    def is_openai_api_of(self, gemini: "Upstream") -> bool:
        """Return whether this is the OpenAI API of that Gemini: calls to it are meant for this."""
        return (
            self.dialect == "gemini-openai"
            and gemini.dialect == "gemini"
            and self.origin == gemini.origin
            and begins(self.base_path, gemini.base_path)
        )

    def target_of(self, path: str) -> str:
        """Return the target at this host of a path of the dialect, e.g. `/v1/models`."""
        # Not of `/v1beta`, which is a version of its own.
        repeats = self.is_versioned and begins(path, "/v1")
        return self.base_path + (path.removeprefix("/v1") if repeats else path)

    def path_of(self, target: str) -> str:
        """Return the dialect's path of a target at this host, with its query."""
        rest = target[len(self.base_path) :]
        return f"/v1{rest}" if self.is_versioned else rest


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
