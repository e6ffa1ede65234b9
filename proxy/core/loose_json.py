r"""What others wrote as JSON, read also where it holds half a surrogate pair.

JSON can name such a half (`"\ud800"`), and some servers write one: a text that a limit of
tokens or characters cuts off amid a pair ends in it. pydantic's parser refuses the whole for
that, and its models and UTF-8 refuse the text that another parser would make of it.
"""

import re
from typing import Any, Final

from pydantic_core import from_json

_PAIR: Final = rb"u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_HALF: Final = rb"u[dD][89a-fA-F][0-9a-fA-F]{2}"
# An escaped backslash is found too, lest what follows it be taken for an escape.
_WHOLE: Final = rb"(?:\\|" + _PAIR + rb")"
_ESCAPES: Final = re.compile(rb"\\(?:" + _WHOLE + rb"(?:\\" + _WHOLE + rb")*+|(" + _HALF + rb"))")


def loose_json(raw: bytes) -> Any:
    """Return what `raw` says; each half of a surrogate pair is read as U+FFFD.

    So it can go wherever text can. Nothing else is taken that pydantic's parser refuses.

    Raises:
        ValueError: if it is no JSON, or nested deeper than 200.
    """
    try:
        return from_json(raw)
    except ValueError:
        # Several times slower, so only now. `json.loads` would be faster, but takes more than
        # halves: whatever writes a value as deep as it can read runs out of stack.
        mended = _ESCAPES.sub(_mended, raw)
        if mended == raw:
            raise
    return from_json(mended)


def _mended(found: re.Match[bytes]) -> bytes:
    return found[0] if found[1] is None else rb"\ufffd"
