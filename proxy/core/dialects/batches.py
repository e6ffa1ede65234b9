"""How a provider takes batches: what code above its adapter has to know.

What only an adapter can make sense of, such as words for states or shapes of objects,
stays with the adapter. Where members of the OpenAI family differ in how files are
handed over, that is here too (`FilesWay`): so a clone is one row, and no code.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

DAY: Final = timedelta(days=1)

LINE_BYTES_MAX: Final = 32 * 1024 * 1024
"""The limit on a line where none is documented: a larger body is not worth the memory that it takes
on its way, and can be called directly."""


class BatchWire(StrEnum):
    """Which adapter speaks a batch API."""

    FILES = "files"
    """OpenAI's `/files` and `/batches`, and what was copied from them."""

    MESSAGES = "messages"
    """Anthropic's Message Batches."""

    JOBS = "jobs"
    """Mistral's batch jobs."""

    OPERATIONS = "operations"
    """Gemini's batches: operations below their model, their input inline or in a file."""

    OPERATIONS_OF_FILES = "operations of files"
    """Gemini's batches by its OpenAI API: created and shown as OpenAI's, and otherwise Gemini's."""

    INLINE = "inline"
    """OpenRouter's batches: requests in the create, results in the batch."""

    COUNTED = "counted"
    """xAI's batches: counts instead of a status, results in pages instead of files."""


class Mark(StrEnum):
    """How to recognise a batch whose create got no answer."""

    METADATA = "metadata"
    """Our ID stands in it, as its name or in what it keeps for us."""

    INPUT_FILE = "input file"
    """It names its input file, which is ours alone."""

    NOTHING = "nothing"
    """Only by its time and size, until its results can be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesWay:
    """How a member of the OpenAI family takes files, where it has its own way."""

    upload_path: str = "/files"
    purpose: str = "batch"
    file_life: timedelta | None = timedelta(days=14)
    """After how long it deletes input and results by itself, should we never do it; nothing where
    that cannot be asked for.

    Two weeks: results outlast a long outage of ours, and no member of the family
    accepts less that takes this for inputs (Azure: 14 to 30 days).
    """

    names_uploads: bool = False
    """Whether an upload says its name in a field beside the file."""

    pages: bool = True
    """Whether its lists take a limit, and an ID to go on behind; if not, they come whole, or
    each page names a cursor for the next one."""

    bare_lists: bool = False
    """Whether a list may come without an envelope."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchApi:
    """The batch API of a dialect."""

    wire: BatchWire
    max_requests: int
    max_bytes: int
    """Bytes of the whole input, line framing included."""

    max_line_bytes: int = LINE_BYTES_MAX
    max_inputs: int | None = None
    """Texts that all embedding calls of a batch may carry together, where that is bounded."""

    mark: Mark = Mark.METADATA
    windows: tuple[timedelta, ...] = (DAY,)
    """How long a batch may be asked to take at most, ascending."""

    is_promise: bool = False
    """Whether a shorter window means that the provider hurries, at a price; otherwise a
    window only says when it gives up."""

    can_cancel: bool = True
    """Whether a batch can be stopped; if not, it holds its jobs for a whole window."""

    keeps_partial: bool = True
    """Whether what a stopped or expired batch had finished can be read."""

    poll_floor: timedelta = timedelta(0)
    """How often at most the provider wants to be asked."""

    maps_models: bool = False
    """Whether batches know a model by another name than calls do, which only the
    operator can tell (`batch_models` of the upstream)."""

    files: FilesWay = FilesWay()

    @property
    def longest(self) -> timedelta:
        """The longest window that can be asked for."""
        return self.windows[-1]


def window_for(api: BatchApi, slack: timedelta | None) -> timedelta:
    """Return the window to ask for, given the time to the nearest deadline.

    A window that only says when the provider gives up should outlast the deadline: we
    stop a late batch ourselves, and an expiry before costs a round. One that makes the
    provider hurry should end before it, and be no shorter than needed.
    """
    if slack is None:
        return api.longest
    if api.is_promise:
        in_time = (window for window in api.windows if window <= slack)
        return max(in_time, default=api.windows[0])
    return next((window for window in api.windows if window >= slack), api.longest)
