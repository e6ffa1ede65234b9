"""Read a file of calls, line by line. Pure but for the file."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.core.compact_json import compact_json
from proxy.core.errors import CallerError

CHAT: Final = "/v1/chat/completions"
_MESSAGES: Final = "/v1/messages"

GEMINI_OPENAI: Final = "gemini-openai"
"""The dialect of Gemini's OpenAI API."""

_HASH_CHARS: Final = 16
"""How much of the hash is kept to see that a line is the one that was sent: 64 bits."""


@dataclass(frozen=True, slots=True)
class Line:
    """One call of the file."""

    number: int
    """From 1, as editors count."""

    url: str
    body: bytes
    custom_id: str | None
    digest: str
    """Changes if anything of the line does, or the path that it leaves to be told."""

    @property
    def provider(self) -> str:
        """Whose key it needs: the prefix of its path, or what its path is known to be."""
        first, _, rest = self.url[1:].partition("/")
        if rest and first not in {"v1", "v1beta"}:
            return first
        return self.dialect

    @property
    def dialect(self) -> str:
        """What its path looks like, whatever the upstream is called."""
        path = self.url.partition("?")[0]
        if path.endswith("/messages"):
            return "anthropic"
        if "/v1beta/openai/" in path:
            return GEMINI_OPENAI
        if ":" in path or "v1beta" in path.split("/")[1:3]:
            return "gemini"
        return "openai"


def read_lines(file: Path, *, endpoint: str, after: int = 0) -> Iterator[Line]:
    """Yield the calls behind line number `after`; empty lines are calls of nobody.

    Raises:
        CallerError: naming `file:line`, at the first line that is no call.
    """
    with file.open("rb") as lines:
        for number, text in enumerate(lines, start=1):
            if number > after:
                yield read_line(text, number, file=file, endpoint=endpoint)


def read_line(text: bytes, number: int, *, file: Path, endpoint: str) -> Line:
    """Return the call that a line holds.

    Raises:
        CallerError: naming `file:line` and what is wrong with it.
    """
    place = f"{file}:{number}"
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise CallerError(f"{place}{_why_no_json(text, exc)}") from None
    if not isinstance(content, dict):
        raise CallerError(f"{place}: is no JSON object")
    body, url = _call(content, endpoint)
    if not isinstance(body, dict):
        raise CallerError(f"{place}: `body` must be an object")
    if not isinstance(url, str) or not url.startswith("/") or not _is_plain(url):
        raise CallerError(f"{place}: `url` must be a path such as {CHAT}")
    if content.get("method", "POST") != "POST":
        raise CallerError(f"{place}: `method` must be POST")
    custom_id = content.get("custom_id")
    if custom_id is not None and not isinstance(custom_id, str):
        raise CallerError(f"{place}: `custom_id` must be a string")
    # The usual path adds nothing: it was not always part of the digest.
    told = f"\0{url}" if _leaves_path(content) and url != CHAT else ""
    digest = hashlib.sha256(text.rstrip(b"\r\n") + told.encode()).hexdigest()[:_HASH_CHARS]
    return Line(number, url, _encoded(body), custom_id, digest)


def _why_no_json(text: bytes, exc: Exception) -> str:
    """Return what follows `file:line`: a column if there is one, and what is wrong there."""
    match exc:
        case _ if not text.strip():
            return ": is empty"
        case json.JSONDecodeError():
            # What ends too early is found missing behind the line's own end.
            column = min(exc.pos, len(exc.doc.rstrip())) + 1
            return f":{column}: is no JSON: {exc.msg[:1].lower()}{exc.msg[1:]}"
        case UnicodeDecodeError():
            return f":{exc.start + 1}: is no JSON: it is not UTF-8"
        case _:
            return ": is no JSON: it is nested too deeply"


def _call(content: dict[str, object], endpoint: str) -> tuple[object, object]:
    if "body" in content:
        return content["body"], content.get("url", endpoint)
    if "params" in content:
        # A line of Anthropic's: the path follows from that.
        return content["params"], content.get("url", _MESSAGES)
    return content, endpoint


def _leaves_path(content: dict[str, object]) -> bool:
    return "url" not in content if "body" in content else "params" not in content


def _is_plain(url: str) -> bool:
    return url.isascii() and url.isprintable() and " " not in url


def _encoded(body: object) -> bytes:
    # The same bytes each time: the same call, to whom a key stands for it.
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Half a surrogate pair, which an escape can name and UTF-8 cannot.
        return compact_json(body)
