"""The configuration as one frozen tree: every key, its default and why that.

What a value means stands in the docstring below it. Bounds that need one value
alone are declared with it; what two values must agree on is in `checks`. Sections
that belong to one subject stand together in `listeners`, `upstreams` and `deferring`.
"""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from proxy.core.upstream import Upstream
from proxy.settings.deferring import Batching, Deferral, Lanes
from proxy.settings.listeners import Admin, Callers, Tls
from proxy.settings.prices import Prices
from proxy.settings.section import Section
from proxy.settings.upstreams import (
    PUBLIC_UPSTREAMS,
    Forwarding,
    UpstreamSettings,
    with_public_upstreams,
)
from proxy.settings.values import (
    Address,
    Duration,
    ListenAddress,
    PositiveDuration,
    Size,
    Store,
    StoreUrl,
    TokenHash,
    webhook_key,
)


class Retention(Section):
    """How long things are kept after their end."""

    results: PositiveDuration = timedelta(days=7)
    """Jobs that ended, with their results."""

    ledger: PositiveDuration = timedelta(days=400)
    """Sums of what was bought, by day: a year can be compared with the one before."""


class Recording(Section):
    """Facts of calls for trying rules on: no prompt, no key. Off unless there is a path."""

    path: Path | None = None
    """A file of JSON lines, one per instance."""

    max_bytes: Annotated[Size, Field(ge=64 << 10)] = 64 << 20
    """For this file and the older one beside it, together; a call takes about 700."""

    sample: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    """The share of calls that is recorded, drawn by chance."""

    headers: tuple[str, ...] = ()
    """Names of more headers whose values are kept, because rules ask for them."""


class Webhook(Section):
    """Where the end of a job is reported, if its caller named this webhook."""

    url: str
    """Where to: http(s) without credentials."""

    secret: SecretStr | None = None
    """What reports are signed with (Standard Webhooks): base64 of 24 to 64 bytes."""

    secret_file: Path | None = None
    """The file that holds the secret, instead of `secret`. While one is being replaced, both, each
    on a line; reports are then signed with either. A change counts from the next start."""

    owners: tuple[str, ...] | None = None
    """Names under `owners` that may use it; nothing: all callers."""

    timeout: PositiveDuration = timedelta(seconds=20)
    """How long it may take to answer (Standard Webhooks: 15 to 30 s)."""

    @model_validator(mode="after")
    def _one_secret(self) -> Self:
        if (self.secret is None) == (self.secret_file is None):
            raise ValueError("needs either secret or secret_file")
        return self

    def keys(self) -> tuple[bytes, ...]:
        """Return the signing keys: one, or every line of the file.

        Raises:
            ValueError: if a secret is empty or malformed, or there is none.
            OSError: if the file cannot be read.
        """
        if self.secret_file is not None:
            lines = self.secret_file.read_text().split() or [""]
            return tuple(webhook_key(line) for line in lines)
        assert self.secret is not None
        return (webhook_key(self.secret.get_secret_value()),)


class Instance(Section):
    """This process among those that share the store."""

    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that share the ports and the store; bounds of connections and held calls
    hold for each. One core serves one."""

    lease: Duration = timedelta(seconds=15)
    """How long another instance waits before it takes over from a silent one."""

    drain_timeout: Duration = timedelta(seconds=25)
    """How long streams may go on after SIGTERM. Kubernetes kills after 30 s. A second Ctrl-C cuts
    them off."""

    event_loop: Literal["uvloop", "asyncio"] = "uvloop"
    """The event loop: libuv's, with which a forwarded call costs an eighth less, or Python's own,
    for platforms where the first does not work."""


class Log(Section):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is written."""

    format: Literal["auto", "json", "console"] = "auto"
    """`auto`: for people on a terminal, else JSON lines."""


def default_store(environ: Mapping[str, str]) -> StoreUrl:
    """Return a SQLite file in the user's state directory (XDG Base Directory, 0.8)."""
    state = environ.get("XDG_STATE_HOME", "")
    # A relative path there is invalid and must be ignored, says the specification.
    folder = Path(state) if Path(state).is_absolute() else _home(environ) / ".local" / "state"
    path = folder / "offramp" / "offramp.db"
    return StoreUrl("sqlite", f"sqlite://{path}", path)


def _home(environ: Mapping[str, str]) -> Path:
    try:
        home = Path(environ.get("HOME") or "~").expanduser()
    except RuntimeError:
        home = Path()
    # A number without a name and a home, as containers run under: theirs is the root.
    return home if home.is_absolute() else Path("/")


class Settings(Section):
    """The whole configuration."""

    listen: ListenAddress = Address("127.0.0.1", 8080)
    """Where calls come in. `[::]:8080` is all addresses of IPv6 and none of IPv4."""

    tls: Tls | None = None

    admin: Admin = Admin()

    store: Store = Field(default_factory=default_store)
    """Where jobs are kept: `sqlite:///absolute/path`, or the URL of a Redis for a fleet."""

    secret_key_file: Path | None = None
    """Keys that seal what is stored. Nothing: made beside the SQLite file."""

    upstreams: Annotated[
        Mapping[str, UpstreamSettings],
        BeforeValidator(with_public_upstreams),
        Field(min_length=1, validate_default=True),
    ] = Field(default_factory=lambda: {name: {} for name in PUBLIC_UPSTREAMS})  # type: ignore[arg-type]
    """By name, which is also the prefix of their paths."""

    batching: Batching = Batching()
    deferral: Deferral = Deferral()
    lanes: Lanes = Lanes()
    callers: Callers = Callers()
    forwarding: Forwarding = Forwarding()
    retention: Retention = Retention()
    prices: Prices = Prices()
    recording: Recording = Recording()

    owners: Mapping[str, tuple[TokenHash, ...]] = Field(default_factory=dict)
    """Hashes of the tokens that belong to one owner, by the owner's name, which is not
    `anonymous`."""

    webhooks: Mapping[str, Webhook] = Field(default_factory=dict)

    policies: Path | None = None
    """File with the rules that divert calls which nobody tagged."""

    instance: Instance = Instance()
    log: Log = Log()

    durability: Literal["durable", "ephemeral"] = "durable"
    """`ephemeral`: the store goes with the machine, so only held calls are deferred."""

    annotate: bool = False
    """Whether forwarded answers carry `X-Deferrable-Decision`: by what they were decided."""

    @property
    def reloads(self) -> bool:
        """Whether there is anything that is read again on SIGHUP."""
        return any(one is not None for one in (self.policies, self.tls, self.admin.tls))

    def parsed_upstreams(self) -> Mapping[str, Upstream]:
        """Return the upstreams as routing takes them."""
        return {
            name: Upstream.parse(name, upstream.dialect, upstream.base_url)
            for name, upstream in self.upstreams.items()
        }
