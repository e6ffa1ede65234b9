"""What the system says of a failure, without what libraries add to it."""

import os
import re
import ssl
from typing import Final

_NUMBER: Final = re.compile(r"\[Errno ([0-9]+)\]")


def system_words(exc: BaseException) -> str:
    """Return why something failed: "Connection refused", and not where to.

    asyncio adds the addresses that a name stands for, which are no caller's business, and
    what it tried, which stands before these words anyway. Empty if nothing is said.
    """
    text = str(exc)
    if not isinstance(exc, OSError) or isinstance(exc, ssl.SSLError):
        return text
    # One address may fail in one way and the next in another.
    numbers = {exc.errno: None} if exc.errno else dict.fromkeys(map(int, _NUMBER.findall(text)))
    # Names that are not found have numbers of their own, below zero.
    words = [os.strerror(number) for number in numbers if number > 0]
    return ", ".join(words) or exc.strerror or text
