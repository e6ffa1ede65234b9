"""What a row of the dialect tables says: families, shapes, endpoints, headers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from proxy.core.dialects.batches import BatchApi, BatchWire


class Shape(StrEnum):
    """Which API an endpoint speaks: decides required fields and how to synthesise a stream."""

    CHAT = "chat"
    RESPONSES = "responses"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    MODERATIONS = "moderations"
    CLASSIFICATIONS = "classifications"
    OCR = "ocr"
    IMAGES = "images"
    IMAGE_EDITS = "image_edits"
    MESSAGES = "messages"
    GENERATE = "generate"


class Family(StrEnum):
    """Whose error envelope and SDKs a dialect shares."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"
    MISTRAL = "mistral"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A path whose calls can be deferred."""

    path: str
    """As the batch API names it; also the path of the direct call.

    Where paths name the model too (`Dialect.model_paths`), what is left without it.
    """

    shape: Shape
    required: tuple[str, ...]
    """Top-level body fields without which the provider refuses."""

    batched: bool = True
    """Whether the provider batches it; if not, another lane runs it."""

    unbatched_fields: tuple[str, ...] = ()
    """Top-level body fields with which another lane must run a call."""

    unbatched_at_zero: tuple[str, ...] = ()
    """Top-level body fields with which another lane must run a call if they are 0."""

    batches_attachments: bool = True
    """Whether batches take images and files that a call carries itself; if not, URLs alone."""

    own_fields: frozenset[str] = frozenset()
    """Top-level body fields that mean something else here than elsewhere: neither dropped
    (`core.body.DROPPED_FIELDS`) nor checked."""

    max_requests: int | None = None
    """Of one batch, where its results are so long that the batch API's own bound would not do."""

    flex_field: str | None = None
    """Top-level body field that asks for the discount tier by the value `flex`, if there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One provider's variant of a wire family."""

    name: str
    family: Family
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    """Deferrable paths, without query."""

    batch: BatchApi | None = None
    """How it takes batches; nothing if it takes none, so that other lanes run every job."""

    root: str = ""
    """What the provider puts before the paths of its API, where its host alone is given."""

    title: str = ""
    """Its name for readers, as its vendor writes it."""

    public_url: str | None = None
    """Where the vendor serves it, if everybody finds it in one place."""

    model_paths: re.Pattern[str] | None = None
    """Matches the paths that name a model: groups `model`, and `endpoint` as above."""

    streamed: Mapping[str, str] = field(default_factory=dict)
    """Paths that differ from that of an endpoint in asking for a stream."""

    credential_headers: tuple[str, ...] = ("authorization",)
    """Where a token may stand, in lower case, the first found counts."""

    billing_headers: tuple[str, ...] = ()
    """Headers that select who pays: part of the credential."""

    batch_headers: tuple[str, ...] = ()
    """Headers that apply to a batch as a whole: part of the batch key."""

    models_path: str = "/v1/models"
    """A free listing, by which a credential can be verified."""

    idle_queries: tuple[str, ...] = ()
    """Queries that SDKs add and that change nothing, whole."""

    listing_headers: tuple[tuple[str, str], ...] = ()
    """What that listing wants besides the credential."""

    user_agent: str = "offramp"
    """As who we make calls of our own: those of jobs, of batches and of listings."""

    @property
    def has_files_beside_root(self) -> bool:
        """Whether the files of its batches are at another API beside the root of this one."""
        return self.batch is not None and self.batch.wire is BatchWire.OPERATIONS_OF_FILES

    def key_header(self, key: str) -> tuple[str, str]:
        """Return the header field by which a call presents `key`."""
        name = self.credential_headers[0]
        return name, f"Bearer {key}" if name == "authorization" else key

    def is_idle_query(self, query: str) -> bool:
        """Return whether the query makes no difference to what the call asks for."""
        return not query or query in self.idle_queries
