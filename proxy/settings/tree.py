"""The configuration as one frozen tree: every key, its default and why that.

What a value means stands in the docstring below it. Bounds that need one value
alone are declared here; what two values must agree on is in `checks`.
"""

import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from policies.windows import Window, parse_span, parse_zone
from proxy.core.dialects import DIALECTS
from proxy.core.lanes import CALL_TIME, CANCEL_TIME, FLEX_TIME, MARGIN, LaneTimes
from proxy.core.plan import FlushLimits, PollPace
from proxy.core.upstream import Upstream
from proxy.settings.prices import Prices
from proxy.settings.section import Section
from proxy.settings.values import (
    Address,
    Count,
    Duration,
    Hours,
    ListenAddress,
    PerSecond,
    PositiveDuration,
    Size,
    Store,
    StoreUrl,
    TokenHash,
    Zone,
    parse_store,
    provider_key,
    webhook_key,
)

PUBLIC_UPSTREAMS: Final = ("openai", "anthropic", "gemini")
"""The upstreams without any configuration, each called as its dialect."""

PUBLIC_BASE_URLS: Final[Mapping[str, str]] = {
    name: dialect.public_url for name, dialect in DIALECTS.items() if dialect.public_url
}
"""Where the providers are whose address need not be configured."""


class Tls(Section):
    """A certificate, with which a listener speaks TLS alone. Read again on SIGHUP."""

    cert_file: Path
    """The certificate and those that lead to its authority, as PEM."""

    key_file: Path
    """Its private key, as PEM and without a passphrase."""


class Admin(Section):
    """The listener for operators: probes, metrics, drain, dashboard."""

    listen: ListenAddress = Address("127.0.0.1", 8081)
    """Where operators come in."""

    tls: Tls | None = None

    token_file: Path | None = None
    """Holds the token that everything but probes and metrics asks for off loopback."""

    allowed_hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")
    """Names in `Host`, without port. A page that a browser shows can rebind its own
    name to this address, but cannot make the browser send another one. The address
    that a connection came in on is always allowed: an address cannot be rebound."""

    def read_token(self) -> str | None:
        """Return the token, if one is configured."""
        return self.token_file.read_text().strip() if self.token_file else None


class UpstreamSettings(Section):
    """A host that calls go to."""

    dialect: Literal[tuple(sorted(DIALECTS))]  # type: ignore[valid-type]  # the table is the list
    """What it speaks; may be left out where the name is that of a public provider."""

    base_url: str
    """Where it is, without the `/v1` of its paths; may be left out where a provider has one
    address for everybody."""

    batch_models: Mapping[str, str] = Field(default_factory=dict)
    """Where batches need deployments of their own (Azure): the batch deployment of each
    deployment that calls name. What has none is not batched."""

    anonymous: bool = False
    """Whether calls without a credential may be deferred: self-hosted servers."""

    key: SecretStr | None = None
    """The provider's own key, for deployments that keep it from callers: these then present
    a client token in its place."""

    key_file: Path | None = None
    """The file that holds the key, instead of `key`; a change counts from the next start."""

    clients: Mapping[str, tuple[TokenHash, ...]] = Field(default_factory=dict)
    """Who may use the key: hashes of client tokens, by the client's name, which is the owner
    of its jobs."""

    client_paths: tuple[str, ...] = ()
    """Patterns of paths that clients may call beside those that can be deferred and the models,
    such as `/v1/images/*`. Of files and batches every client would see those of all."""

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.key is not None and self.key_file is not None:
            raise ValueError("takes either key or key_file")
        return self

    @property
    def holds_key(self) -> bool:
        """Whether the provider's key is held here."""
        return self.key is not None or self.key_file is not None

    def read_key(self) -> str:
        """Return the key that is held.

        Raises:
            ValueError: if it is none that a header could carry.
            OSError: if the file cannot be read.
        """
        if self.key_file is not None:
            return provider_key(self.key_file.read_text())
        assert self.key is not None
        return provider_key(self.key.get_secret_value())


class Batching(Section):
    """When jobs become a batch, and how often a batch is asked about."""

    linger: PositiveDuration = timedelta(seconds=60)
    """How long the oldest job of a batch waits for company."""

    linger_max: PositiveDuration = timedelta(minutes=15)
    """What `linger` doubles up to while batches stay below `worth`."""

    worth: Count = 10
    """Below so many jobs a batch saves less than its overhead and polls cost."""

    max_requests: Count | None = None
    """Jobs per batch; nothing: the provider's own limit."""

    max_bytes: Annotated[Size, Field(ge=1)] | None = None
    """Bytes per batch; nothing: the provider's own limit."""

    max_tokens: Count | None = None
    """Estimated prompt tokens enqueued per credential and model; nothing: learned."""

    max_open_batches: Count = 20
    """Per upstream, credential and model."""

    poll_interval: PositiveDuration = timedelta(seconds=30)
    """Between two questions about a batch; the first comes sooner, and old ones more rarely."""

    idle: PositiveDuration = timedelta(seconds=2)
    """With every caller held, how long none may have arrived before a flush."""

    create_timeout: PositiveDuration = timedelta(seconds=120)
    """How long a create may be on its way. A batch whose sender died is searched for
    at the provider only after this and the lease; less risks a second purchase."""

    search_pause: PositiveDuration = timedelta(seconds=30)
    """Between two searches for a batch whose create got no answer: how long a new one
    can be missing from a provider's list is not documented."""

    def flush_limits(self) -> FlushLimits:
        """Return these values as the planner takes them; the provider's limits come on top."""
        return FlushLimits(
            max_requests=self.max_requests or sys.maxsize,
            max_bytes=self.max_bytes or sys.maxsize,
            max_tokens=self.max_tokens,
            linger=self.linger,
            linger_max=self.linger_max,
            worth=self.worth,
            idle=self.idle,
            max_open=self.max_open_batches,
        )

    def pace(self) -> PollPace:
        """Return how often a batch is polled: the first time sooner, old ones more slowly."""
        usual = PollPace()
        return PollPace(
            interval=self.poll_interval,
            first=min(usual.first, self.poll_interval),
            slowest=max(usual.slowest, self.poll_interval),
        )


class Deferral(Section):
    """What deferred calls are answered, and how many may be pending."""

    default_answer: Literal["job", "wait", "raise"] = "job"
    """What `X-Deferrable: true` means."""

    when_store_away: Literal["refuse", "forward"] = "refuse"
    """What becomes of calls that ask to be deferred while the store does not answer: 503,
    to be sent again, or made at once, at full price. Explicit `job`, `raise` and
    `background` are refused in any case; what a rule alone diverts is always made."""

    default_deadline: PositiveDuration = timedelta(hours=26)
    """A provider's window of 24 h, and time to act after it."""

    heartbeat_after: PositiveDuration = timedelta(seconds=20)
    """When a held call's first byte is sent at the latest; failures before it keep
    their true status."""

    heartbeat_every: PositiveDuration = timedelta(seconds=10)
    """Between two heartbeats of a held call, once it has begun to answer."""

    max_body_bytes: Annotated[Size, Field(ge=1)] = 32 << 20
    """A larger call is forwarded. The narrowest limit of a direct call among the
    providers is 32 MB (Anthropic API, "Errors", `request_too_large`)."""

    max_held: Count = 10_000
    """Connections held for a result at once; beyond it 429."""

    max_pending_jobs: Count = 1_000_000
    """Per owner; beyond it 429."""

    max_pending_bytes: Annotated[Size, Field(ge=1)] = 4 << 30
    """Per owner, bodies alone; beyond it 429."""

    max_unverified_jobs: Count = 1_000
    """Of all owners together whose token no upstream has accepted yet; beyond it 429."""

    max_unverified_bytes: Annotated[Size, Field(ge=1)] = 64_000_000
    """Of the same, bodies alone."""


class Flex(Section):
    """The provider's synchronous discount tier: half the price, refused when it is full."""

    enabled: bool = True
    """Whether it is used where a provider has it: for jobs too few for a batch, or too
    near their deadline. A model that has none is noticed and not asked again for a day."""

    max_concurrent_calls: Count = 16
    """Calls under way at once, per credential."""

    calls_per_s: PerSecond = 5.0
    """Calls begun per second, per credential."""

    call_time: PositiveDuration = FLEX_TIME
    """How long one call may take; a job with less time than that is called at full price."""


class Trickle(Section):
    """Ordinary calls that wait for a free moment, where nothing is cheaper: providers and
    servers without batches. What it cannot call in time is called at once."""

    enabled: bool = True
    """Whether such jobs wait; if not, they are called at once."""

    max_concurrent_calls: Count = 4
    """Calls under way at once, per credential."""

    calls_per_s: PerSecond = 2.0
    """Calls begun per second, per credential."""

    hours: Hours | None = None
    """When they may begin, such as `20:00-06:00`; nothing: all day."""

    zone: Zone = "UTC"
    """The time zone of `hours`, such as `Europe/Berlin`."""

    def window(self) -> Window | None:
        """Return the hours as a window; nothing if they are the whole day."""
        if self.hours is None:
            return None
        return Window(span=parse_span(self.hours), zone=parse_zone(self.zone))


class Lanes(Section):
    """How long things take and how fast direct calls are made, per credential."""

    flex: Flex = Flex()
    trickle: Trickle = Trickle()

    turnaround: PositiveDuration = timedelta(minutes=7)
    """How long half of all batches take, where none was observed yet."""

    cancel_time: Duration = CANCEL_TIME
    """How long a cancelled batch may take to become terminal."""

    call_time: PositiveDuration = CALL_TIME
    """How long one direct call may take."""

    margin: Duration = MARGIN
    """Kept free before every deadline."""

    calls_per_s: PerSecond = 10.0
    """Direct calls begun per second: a remainder must not become a stampede."""

    max_concurrent_calls: Count = 16
    """Direct calls under way at once."""

    max_calls_per_hour: Count | None = None
    """Jobs called at full price per hour and credential, by the whole fleet; nothing: no
    bound. What is over it waits for the next hour, and expires at its deadline."""

    max_tokens_per_hour: Count | None = None
    """The same in estimated prompt tokens."""

    def times(self) -> LaneTimes:
        """Return these values as the planner takes them."""
        return LaneTimes(
            cancel=self.cancel_time,
            margin=self.margin,
            call=self.call_time,
            flex=self.flex.call_time,
            calls_per_s=self.calls_per_s,
        )


class Callers(Section):
    """Bounds on whoever connects: slow ones, idle ones, and how many."""

    max_connections: Count = 10_000
    """At once; one more is told 503. Each forwarded call needs two open files."""

    head_timeout: PositiveDuration = timedelta(seconds=75)
    """Until the head of a call is there, from its connection on or from the call before:
    for those who send nothing, or a letter a minute, or keep a connection unused."""

    max_field_bytes: Annotated[Size, Field(ge=1024, le=1 << 20)] = 32 << 10
    """Of the request line, and of each header field; nginx stops at 8 KB, node at 16 KB."""

    max_fields: Annotated[int, Field(ge=16, le=10_000)] = 512
    """Header fields of one call."""


class Forwarding(Section):
    """Bounds of a forwarded call. There is no total: streams are long."""

    client: Literal["lean", "aiohttp"] = "lean"
    """Whose connections calls are forwarded over: our own, which cost a third, or those
    of aiohttp, should a server be found that ours do not get along with."""

    connect_timeout: PositiveDuration = timedelta(seconds=15)
    """For a free connection, name, TCP and TLS together."""

    first_byte_timeout: PositiveDuration = timedelta(minutes=15)
    """Reasoning models think for minutes before an answer that is not streamed."""

    idle_timeout: PositiveDuration = timedelta(minutes=10)
    """Between two pieces of an answer."""

    max_connections: Count = 4_096
    """To all upstreams together; more calls wait for a free one."""


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
    """Of this file and the older one beside it, together; a call takes about 700."""

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
    """The file that holds the secret, instead of `secret`. While one is exchanged: both,
    each on a line; reports are then signed with either."""

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
    """How long streams may go on after SIGTERM. Kubernetes kills after 30 s."""

    event_loop: Literal["uvloop", "asyncio"] = "uvloop"
    """What turns the loop: libuv's, by which a forwarded call costs an eighth less, or
    Python's own, should a platform be found that the first does not get along with."""


class Log(Section):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is written."""

    format: Literal["auto", "json", "console"] = "auto"
    """`auto`: for people on a terminal, else JSON lines."""


def default_store(environ: Mapping[str, str] = os.environ) -> StoreUrl:
    """Return a SQLite file in the user's state directory (XDG Base Directory, 0.8)."""
    state = environ.get("XDG_STATE_HOME", "")
    # A relative path there is invalid and must be ignored, says the specification.
    if not Path(state).is_absolute():
        state = str(Path(environ.get("HOME") or "~").expanduser() / ".local" / "state")
    return parse_store(f"sqlite://{state}/offramp/offramp.db")


def _with_public_upstreams(value: object) -> object:
    """Fill in what an upstream that is called as its dialect need not say."""
    if not isinstance(value, Mapping):
        return value
    filled: dict[object, object] = {}
    for name, upstream in value.items():
        if isinstance(upstream, Mapping):
            usual: dict[object, object] = {"dialect": name} if name in PUBLIC_BASE_URLS else {}
            dialect = upstream.get("dialect", name)
            if isinstance(dialect, str) and dialect in PUBLIC_BASE_URLS:
                usual["base_url"] = PUBLIC_BASE_URLS[dialect]
            filled[name] = usual | dict(upstream)
        else:
            filled[name] = upstream
    return filled


class Settings(Section):
    """The whole configuration."""

    listen: ListenAddress = Address("127.0.0.1", 8080)
    """Where calls come in."""

    tls: Tls | None = None

    admin: Admin = Admin()

    store: Store = Field(default_factory=default_store)
    """Where jobs are kept: `sqlite:///absolute/path`, or the URL of a Redis for a fleet."""

    secret_key_file: Path | None = None
    """Keys that seal what is stored. Nothing: made beside the SQLite file."""

    upstreams: Annotated[
        Mapping[str, UpstreamSettings],
        BeforeValidator(_with_public_upstreams),
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
    """Hashes of the tokens that belong to one owner, by the owner's name."""

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
