"""Rows of the Gemini family.

The model and the method stand in the path, `/v1beta/models/MODEL:METHOD`, and the
version before them makes no difference to what is asked.
"""

import re
from datetime import timedelta
from typing import Final

from proxy.core.dialects.batches import BatchApi, BatchWire
from proxy.core.dialects.records import Dialect, Endpoint, Family, Shape

GENERATE: Final = ":generateContent"
EMBED: Final = ":embedContent"

_ENDPOINTS: Final = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint(
            path=GENERATE,
            shape=Shape.GENERATE,
            required=("contents",),
            flex_field="serviceTier",
        ),
        Endpoint(path=EMBED, shape=Shape.EMBEDDINGS, required=("content",)),
        # One line of a batch is one text, and this call has several.
        Endpoint(
            path=":batchEmbedContents",
            shape=Shape.EMBEDDINGS,
            required=("requests",),
            batched=False,
        ),
    )
}

BATCH: Final = BatchApi(
    wire=BatchWire.OPERATIONS,
    # No number is documented; enqueued tokens end a batch before any would. As
    # many as elsewhere, so that a claim stays of a size that stores know.
    max_requests=50_000,
    # "2 GB" of an input file; the smaller reading.
    max_bytes=2_000_000_000,
    # It aims at 24 hours and gives up after 48, then without any results.
    windows=(timedelta(hours=48),),
    keeps_partial=False,
)
"""Also of batches that its OpenAI API creates."""

ROWS: Final = (
    Dialect(
        name="gemini",
        family=Family.GEMINI,
        title="Gemini",
        public_url="https://generativelanguage.googleapis.com",
        endpoints=_ENDPOINTS,
        model_paths=re.compile(
            r"/v1(?:beta)?/models/(?P<model>[A-Za-z0-9._-]{1,128})(?P<endpoint>:[A-Za-z]{1,64})"
        ),
        streamed={":streamGenerateContent": GENERATE},
        credential_headers=("x-goog-api-key", "authorization"),
        billing_headers=("x-goog-user-project",),
        models_path="/v1beta/models",
        idle_queries=("alt=json",),
        batch=BATCH,
    ),
)
