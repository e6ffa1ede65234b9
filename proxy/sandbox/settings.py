"""How a sandbox provider behaves, fixed at its start.

What may change while it runs (faults, keys, flex capacity, time) is not here: see `faults`,
`keys` and `clock`. Durations are seconds of the sandbox's own clock.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

BATCH_LINES_MAX: Final = 50_000
"""OpenAI, Batch guide: requests per batch; also embedding inputs per batch."""

BATCH_BYTES_MAX: Final = 209_715_200
"""OpenAI, Batch guide: 200 MB per input file, quoted as 209,715,200 bytes in its error."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model on offer, with the sandbox's own price.

    Prices are whole micro-USD per token, and even, so that half of any bill is exact: a test
    compares sums, not roundings. They are not any vendor's prices.
    """

    id: str
    kind: str = "chat"
    """`chat` (chat completions and responses), `completion`, `embedding`, `moderation`, `image` or
    `ocr`;
    `messages`, which Anthropic's endpoints alone serve; `generate` and `embed`, which are
    Gemini's."""
    input_price: int = 2
    output_price: int = 8
    batchable: bool = True
    flexible: bool = True
    """Whether `service_tier: "flex"` is sold for it."""
    context_tokens: int = 400_000
    enqueued_tokens_max: int | None = None
    """Overrides the setting of the same name for this model."""
    dimensions: int = 16
    """Length of an embedding, unless the caller asks for another; short, to keep files small."""


DEFAULT_MODELS: Final = (
    ModelSpec("gpt-5.4", input_price=4, output_price=16),
    ModelSpec("gpt-5.4-mini"),
    ModelSpec("gpt-5.4-nano"),
    # As at OpenAI, whose flex tier is sold for reasoning models (guide "Flex processing").
    ModelSpec("gpt-4.1", input_price=4, output_price=16, flexible=False),
    ModelSpec("gpt-4.1-mini", flexible=False),
    ModelSpec("gpt-4o", input_price=4, output_price=16, flexible=False),
    ModelSpec("gpt-4o-mini", flexible=False),
    ModelSpec("gpt-5.4-interactive", batchable=False, flexible=False),
    ModelSpec("gpt-3.5-turbo-instruct", kind="completion"),
    ModelSpec("text-embedding-3-small", kind="embedding", output_price=0, context_tokens=8_192),
    ModelSpec("text-embedding-3-large", kind="embedding", output_price=0, context_tokens=8_192),
    ModelSpec("claude-opus-5", kind="messages", input_price=10, output_price=50),
    ModelSpec("claude-sonnet-5", kind="messages", input_price=4, output_price=16),
    ModelSpec("claude-haiku-4-5", kind="messages"),
    ModelSpec("gemini-2.5-pro", kind="generate", input_price=4, output_price=16),
    ModelSpec("gemini-2.5-flash", kind="generate"),
    ModelSpec("gemini-2.5-flash-interactive", kind="generate", batchable=False, flexible=False),
    ModelSpec("gemini-embedding-001", kind="embed", output_price=0, context_tokens=2_048),
    ModelSpec("gpt-image-1.5", kind="image", input_price=4, output_price=16),
    ModelSpec("mistral-ocr-latest", kind="ocr", output_price=0),
    ModelSpec("omni-moderation-latest", kind="moderation", input_price=0, output_price=0),
)


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """Everything that is decided before the first request."""

    models: tuple[ModelSpec, ...] = DEFAULT_MODELS
    latency_s: float = 0.0
    """Pause before an interactive answer, and before the first event of a stream."""
    stream_pause_s: float = 0.0
    """Pause between two text events of a stream."""
    background_s: float = 0.0
    """How long a background response is computed; it is `queued` for the first quarter."""

    validation_s: float = 0.0
    """Least time that a batch is `validating`."""
    turnaround_s: float = 0.0
    """Time from `in_progress` to the last line; lines end evenly over it."""
    finalizing_s: float = 0.0
    cancel_s: float = 0.0
    """Time that a batch is `cancelling` (observed at OpenAI: 3 to 25 minutes)."""
    window_s: float = 86_400.0
    """From creation to `expires_at`."""

    lines_max: int = BATCH_LINES_MAX
    bytes_max: int = BATCH_BYTES_MAX
    inline_max: int = 100_000
    """Requests of a batch that is created with them in its body. Anthropic, "Batch processing":
    100,000 requests or 256 MB."""
    inline_bytes_max: int = 256 * 1024 * 1024
    gemini_inline_bytes_max: int = 20 * 1024 * 1024
    """Bytes of a Gemini create that carries its requests. Gemini API, "Batch API": 20 MB."""
    gemini_batches_max: int = 100
    """Gemini batches of a project at a time. Gemini API, "Rate limits"."""
    enqueued_tokens_max: int | None = None
    """Prompt tokens over all non-terminal batches of one model and project; None: no limit."""
    shuffle_seed: int | None = 0
    """Order of result lines, reproducible per batch; None keeps the input's order."""

    file_lag_s: float = 0.0
    """A new file is neither listed nor retrievable for so long (a batch may use it)."""
    batch_list_lag_s: float = 0.0
    """A new batch is not listed for so long."""
    batch_get_lag_s: float = 0.0
    """A new batch answers 404 for so long."""

    time_scale: float = 1.0
    """Seconds of the sandbox's clock per real second; 0: time moves only by `advance`."""
    epoch: float | None = None
    """Where the sandbox's clock starts, in Unix seconds; None: now."""
    directory: Path | None = None
    """Where file contents live; None: a temporary directory, removed at the end."""

    def model(self, model_id: str) -> ModelSpec | None:
        """Return the model of that name, if it is on offer."""
        return next((model for model in self.models if model.id == model_id), None)
