"""What the sandbox answers: a pure function of the request body.

A body has one right answer, whichever lane computes it, so a test can say whether a job got
*its* answer. Fields that choose a lane or a transport (`stream`, `service_tier`, …) are not part
of the question. Nothing here is specific to one vendor's wire.
"""

import hashlib
import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

_LANE_FIELDS: Final = frozenset(
    {
        *("stream", "stream_options", "background", "background_options"),
        *("service_tier", "serviceTier", "partial_images"),
    }
)
# fmt: off
_WORDS: Final = (
    "amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "harbor",
    "island", "juniper", "kelp", "lagoon", "meadow", "north", "ocean", "prairie",
    "quarry", "ridge", "summit", "tundra", "upland", "valley", "willow", "zephyr",
    "stone", "river", "cloud", "field", "lantern", "orchard", "yarrow", "walnut",
)
# fmt: on
_ECHO_MAX: Final = 80

Read = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def body_hash(body: Mapping[str, Any]) -> str:
    """Return the identity of a question: 32 hex digits over its canonical JSON.

    Key order, white space and lane fields do not matter.
    """
    asked = {name: value for name, value in body.items() if name not in _LANE_FIELDS}
    canonical = json.dumps(asked, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def answer_text(digest: str, question: str, *, choice: int = 0) -> str:
    """Return the answer to the question with that `body_hash`: a mark, an echo, 8 to 39 words."""
    seed = hashlib.sha256(f"{digest}/{choice}".encode()).digest()
    words = [_WORDS[seed[i % 32] % len(_WORDS)] for i in range(8 + seed[0] % 32)]
    echo = " ".join(question.split())[:_ECHO_MAX]
    return f"[{digest[:12]}/{choice}] On “{echo}”: {' '.join(words)}."


def text_within(content: Any, names: Sequence[str], *, read: Read = lambda part: part) -> str:
    """Return all text of a message, a list of them or a part, found in members of these names.

    `read` is given each object before its members are looked up.
    """
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = content
    elif isinstance(content, dict):
        message = read(content)
        parts = [message[name] for name in names if name in message]
    else:
        return ""
    return "\n".join(filter(None, (text_within(part, names, read=read) for part in parts)))


def tokens_in(text: str) -> int:
    """Return the number of tokens of a text: one per four bytes, at least one if not empty."""
    return math.ceil(len(text.encode("utf-8", "surrogatepass")) / 4)


def clip(text: str, tokens_max: int | None) -> tuple[str, bool]:
    """Return the text cut to so many tokens, and whether something was cut."""
    if tokens_max is None or tokens_in(text) <= tokens_max:
        return text, False
    return text.encode()[: tokens_max * 4].decode("utf-8", "ignore"), True


def unit_vector(digest: str, dimensions: int) -> list[float]:
    """Return a vector of length one whose components are exact 32-bit floats.

    So a caller gets the same numbers as a JSON list and as base64.
    """
    stream = hashlib.shake_256(digest.encode()).digest(dimensions * 2)
    raw = [
        int.from_bytes(stream[i : i + 2], "big") / 32768 - 1 for i in range(0, dimensions * 2, 2)
    ]
    norm = math.sqrt(sum(x * x for x in raw)) or 1.0
    return list(
        struct.unpack(f"<{dimensions}f", struct.pack(f"<{dimensions}f", *(x / norm for x in raw)))
    )


def instance_of(schema: Any, digest: str) -> Any:
    """Return a value that fits a JSON schema, reproducible from the digest.

    Covers what tool parameters and structured outputs use; an unknown schema gives `null`.
    `$ref` is resolved inside the same document only, to a depth that ends any recursion.
    """
    return _Instance(schema if isinstance(schema, dict) else {}, digest).build()


class _Instance:
    """Builds one value for one schema document."""

    _DEPTH_MAX = 8

    def __init__(self, root: dict[str, Any], digest: str) -> None:
        self._root = root
        self._digest = digest

    def build(self) -> Any:
        return self._value(self._root, depth=0)

    def _value(self, schema: Any, *, depth: int) -> Any:
        if not isinstance(schema, dict) or depth > self._DEPTH_MAX:
            return None
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][int(self._digest[:4], 16) % len(schema["enum"])]
        if "$ref" in schema:
            return self._value(self._resolve(str(schema["$ref"])), depth=depth + 1)
        for union in ("anyOf", "oneOf", "allOf"):
            if schema.get(union):
                return self._value(schema[union][0], depth=depth + 1)
        kind = schema.get("type", "object" if "properties" in schema else None)
        return self._typed(kind[0] if isinstance(kind, list) else kind, schema, depth)

    def _typed(self, kind: Any, schema: dict[str, Any], depth: int) -> Any:
        number = int(self._digest[4:8], 16)
        match kind:
            case "object":
                properties = schema.get("properties", {})
                return {name: self._value(properties[name], depth=depth + 1) for name in properties}
            case "array":
                items = max(1, int(schema.get("minItems", 1)))
                return [self._value(schema.get("items"), depth=depth + 1) for _ in range(items)]
            case "string":
                return f"{_WORDS[number % len(_WORDS)]}-{self._digest[:6]}"
            case "integer":
                return int(schema.get("minimum", 0)) + number % 2
            case "number":
                return float(schema.get("minimum", 0)) + number % 2
            case "boolean":
                return number % 2 == 0
        return None

    def _resolve(self, reference: str) -> Any:
        target: Any = self._root
        for part in reference.removeprefix("#").strip("/").split("/"):
            if part:
                target = target.get(part) if isinstance(target, dict) else None
        return target
