"""What is deferred, how it is batched, and the lanes in which it gets its answer."""

import sys
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from policies.windows import Window, parse_span, parse_zone
from proxy.core.lanes import CALL_TIME, CANCEL_TIME, FLEX_TIME, MARGIN, LaneTimes
from proxy.core.plan import FlushLimits, PollPace
from proxy.settings.section import Section
from proxy.settings.values import (
    Count,
    Duration,
    Hours,
    PerSecond,
    PositiveDuration,
    Size,
    Zone,
)


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
    """What becomes of calls that ask to be deferred while the store does not answer: they get 503,
    to be sent again, or are made at once, at full price. Explicit `job`, `raise` and `background`
    are refused in any case; what a rule alone diverts is always made."""

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
    """For all owners together whose token no upstream has accepted yet; beyond it 429."""

    max_unverified_bytes: Annotated[Size, Field(ge=1)] = 64_000_000
    """For the same owners, bodies alone."""


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
    """Jobs called at full price per hour and credential, by the whole fleet; no bound if nothing.
    What is over it waits for the next hour, and expires at its deadline."""

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
