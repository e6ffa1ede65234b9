"""What providers differ in, as tables: paths, credentials, batches, error envelopes.

A clone of the OpenAI API is a row here and no code. What a batch needs beyond
the row (states, shapes of objects, result lines) is the provider adapter's.
"""

from collections.abc import Mapping
from typing import Final

from proxy.core.dialects import anthropic, gemini, openai
from proxy.core.dialects.anthropic import ANTHROPIC_VERSION
from proxy.core.dialects.batches import BatchApi, BatchWire, FilesWay, Mark, window_for
from proxy.core.dialects.credentials import (
    Presented,
    credential_hash,
    pick_headers,
    presented_credential,
)
from proxy.core.dialects.envelopes import (
    ANTHROPIC_STATUS,
    ErrorAnswer,
    error_answer,
    gemini_error,
    openai_error,
)
from proxy.core.dialects.places import Place, Streaming, place_for, whole_target
from proxy.core.dialects.records import (
    Dialect,
    Endpoint,
    Family,
    Shape,
)

__all__ = [
    "ANTHROPIC_STATUS",
    "ANTHROPIC_VERSION",
    "DIALECTS",
    "BatchApi",
    "BatchWire",
    "Dialect",
    "Endpoint",
    "ErrorAnswer",
    "Family",
    "FilesWay",
    "Mark",
    "Place",
    "Presented",
    "Shape",
    "Streaming",
    "credential_hash",
    "error_answer",
    "gemini_error",
    "openai_error",
    "pick_headers",
    "place_for",
    "presented_credential",
    "whole_target",
    "window_for",
]

DIALECTS: Final[Mapping[str, Dialect]] = {
    dialect.name: dialect for rows in (openai, anthropic, gemini) for dialect in rows.ROWS
}
"""Every dialect that an upstream can be configured with."""
