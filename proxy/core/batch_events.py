"""What can happen to a batch; what each event does to it stands in `core/batch.py`.

Time comes in with the events, so that any history can be played again.
"""

from dataclasses import dataclass
from datetime import datetime

from proxy.core.ids import InstanceId


@dataclass(frozen=True, slots=True)
class Sealed:
    """All its jobs are claimed."""

    count: int
    body_bytes: int
    tokens: int
    nearest_deadline: datetime | None


@dataclass(frozen=True, slots=True)
class SubmissionStarted:
    """`holder` is about to hand the batch to the provider."""

    holder: InstanceId


@dataclass(frozen=True, slots=True)
class Uploaded:
    """The provider has the input file of `count` lines; that costs nothing yet."""

    input_file_id: str
    count: int


@dataclass(frozen=True, slots=True)
class CreateStarted:
    """The paid call is about to be sent, with `count` requests."""

    at: datetime
    count: int


@dataclass(frozen=True, slots=True)
class CreateUnclear:
    """The create got no clear answer, or was `searched` for in vain; search at `next_at`."""

    at: datetime
    next_at: datetime
    searched: bool


@dataclass(frozen=True, slots=True)
class PutBack:
    """Nothing was created: refused for now, or proved absent. Again from `next_at`."""

    next_at: datetime


@dataclass(frozen=True, slots=True)
class Created:
    """The provider has the batch: it said so, or it was found in its lists."""

    provider_batch_id: str
    at: datetime
    window_ends_at: datetime | None
    next_at: datetime
    provisional: bool = False
    """Whether it may as well be somebody else's: it carries no name."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """One of our names was read from the adopted batch: it is ours."""


@dataclass(frozen=True, slots=True)
class Disowned:
    """The adopted batch is somebody else's, or did not tell in time whose it is."""

    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The provider refused the batch for good; nothing was bought."""

    at: datetime
    code: str
    message: str
    line: int | None = None
    """1-based, if one line is why."""


@dataclass(frozen=True, slots=True)
class Dissolved:
    """Given up before anything was bought: too late for it, or no one to buy it with."""

    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Polled:
    """Not terminal yet."""

    next_at: datetime
    cancelling: bool = False


@dataclass(frozen=True, slots=True)
class CancelStarted:
    """The provider was asked to stop, so that the rest makes its deadline."""

    next_at: datetime
    at: datetime


@dataclass(frozen=True, slots=True)
class Missing:
    """The provider answered 404."""

    at: datetime
    next_at: datetime


@dataclass(frozen=True, slots=True)
class Vanished:
    """404 for longer than any lag."""

    next_at: datetime


@dataclass(frozen=True, slots=True)
class TwinFound:
    """A second provider batch carries our ID."""

    provider_batch_id: str


@dataclass(frozen=True, slots=True)
class TwinRead:
    """Every result of a twin is read, or gone for good."""

    provider_batch_id: str


@dataclass(frozen=True, slots=True)
class BatchEnded:
    """Terminal at the provider, in whatever way."""

    at: datetime
    reason: str
    output_file_ids: tuple[str, ...] = ()
    error_code: str | None = None
    error_message: str | None = None
    error_line: int | None = None


@dataclass(frozen=True, slots=True)
class ResultsNamed:
    """The provider names other results than when the batch ended."""

    output_file_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Delayed:
    """The provider could not be asked, or has not everything yet; again at `next_at`.

    `refused_at` is set if every credential that might ask was refused.
    """

    next_at: datetime
    refused_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Harvested:
    """Every result file is read, and every job without a result released."""

    at: datetime


@dataclass(frozen=True, slots=True)
class BatchSettled:
    """Every job of the batch has its result or was released."""

    at: datetime


BatchEvent = (
    Sealed
    | SubmissionStarted
    | Uploaded
    | CreateStarted
    | CreateUnclear
    | PutBack
    | Created
    | Confirmed
    | Disowned
    | Rejected
    | Dissolved
    | Polled
    | CancelStarted
    | Missing
    | Vanished
    | TwinFound
    | TwinRead
    | BatchEnded
    | ResultsNamed
    | Delayed
    | Harvested
    | BatchSettled
)
