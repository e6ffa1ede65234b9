"""The rows of the OpenAI family."""

import pytest

from proxy.core.dialects import DIALECTS, Shape, place_for

OPENAI = DIALECTS["openai"]


@pytest.mark.parametrize(
    ("target", "shape"),
    [
        ("/v1/chat/completions", Shape.CHAT),
        ("/v1/chat/completions?x=1", Shape.CHAT),
        ("/v1/responses", Shape.RESPONSES),
        ("/v1/completions", Shape.COMPLETIONS),
        ("/v1/embeddings", Shape.EMBEDDINGS),
        ("/v1/moderations", Shape.MODERATIONS),
        ("/v1/images/generations", Shape.IMAGES),
        ("/v1/images/edits", Shape.IMAGE_EDITS),
        ("/v1/images/variations", None),
        ("/v1/chat/completions/", None),
        ("/v1/chat/completions/x", None),
        ("/v1/models", None),
        ("/v1/audio/speech", None),
        ("/", None),
    ],
)
def test_only_exact_paths_are_deferrable(target: str, shape: Shape | None) -> None:
    found = place_for(OPENAI, target)

    assert (found and found.endpoint.shape) == shape


@pytest.mark.parametrize(
    ("target", "shape"),
    [
        ("/v1/ocr", Shape.OCR),
        ("/v1/fim/completions", Shape.CHAT),
        ("/v1/chat/moderations", Shape.MODERATIONS),
        ("/v1/classifications", Shape.CLASSIFICATIONS),
        ("/v1/chat/classifications", Shape.CLASSIFICATIONS),
        ("/v1/images/generations", None),
        ("/v1/agents/completions", None),
    ],
)
def test_mistral_batches_what_openai_does_not_have(target: str, shape: Shape | None) -> None:
    found = place_for(DIALECTS["mistral"], target)

    assert (found and found.endpoint.shape) == shape
    assert found is None or found.endpoint.batched
