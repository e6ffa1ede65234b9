"""Rows of the Gemini family."""

from typing import Final

from proxy.core.dialects.records import Dialect, Family

ROWS: Final = (
    Dialect(
        name="gemini",
        family=Family.GEMINI,
        title="Gemini",
        public_url="https://generativelanguage.googleapis.com",
        credential_headers=("x-goog-api-key", "authorization"),
        billing_headers=("x-goog-user-project",),
        models_path="/v1beta/models",
    ),
)
