"""Values as compact JSON, also those that hold half a surrogate pair.

JSON can name such a half (`"\\ud800"`) and UTF-8 cannot hold it, so that models, tags
and headers of callers may bring one in that no strict encoder takes.
"""

import json
from collections.abc import Callable
from typing import Any

from pydantic_core import to_json


def compact_json(value: Any, *, fallback: Callable[[Any], Any] | None = None) -> bytes:
    """Return `value` as JSON in UTF-8, without spaces; what holds half a pair comes in ASCII.

    `fallback` turns what JSON knows no form for into what it does.
    """
    try:
        return to_json(value, fallback=fallback)
    except ValueError:
        # Four times as long.
        text = json.dumps(value, separators=(",", ":"), default=fallback)
        return text.encode()
