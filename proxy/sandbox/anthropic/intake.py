"""Taking in a batch: its body goes to disk, and its requests are found there.

What concerns the whole is checked at once, as at Anthropic: the JSON, the number of requests and
their custom IDs. What is in `params` waits until its request runs.
"""

import mmap
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pydantic_core

from proxy.sandbox.anthropic import errors
from proxy.sandbox.lines import Pause
from proxy.sandbox.wire import CHUNK_BYTES, Call

_CUSTOM_ID: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_HEAD: Final = re.compile(rb'\s*\{\s*"requests"\s*:\s*\[\s*')
_TAIL: Final = re.compile(rb"\s*\]\s*\}\s*\Z")
_BETWEEN: Final = re.compile(rb"\s*,\s*")
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\]]', re.DOTALL)


@dataclass(slots=True)
class Requests:
    """The requests of one batch: a file, and where each of them stands in it."""

    path: Path
    starts: "array[int]" = field(default_factory=lambda: array("Q"))
    ends: "array[int]" = field(default_factory=lambda: array("Q"))
    model: str | None = None
    """Of the first request, by which faults choose batches."""

    def __len__(self) -> int:
        return len(self.starts)

    def read(self, places: list[int]) -> Iterator[tuple[str, Any]]:
        """Yield custom ID and `params` of the requests at these places."""
        with self.path.open("rb") as file:
            for place in places:
                file.seek(self.starts[place])
                request = pydantic_core.from_json(file.read(self.ends[place] - self.starts[place]))
                yield request["custom_id"], request.get("params")


async def receive(call: Call, path: Path, *, bytes_max: int) -> None:
    """Write the body of a call, which must not be empty, to `path`."""
    size = call.request.content_length
    if size is not None and size > bytes_max:
        raise errors.too_large()
    received = 0
    with path.open("wb") as file:
        async for chunk in call.request.content.iter_chunked(CHUNK_BYTES):
            received += len(chunk)
            if received > bytes_max:
                raise errors.too_large()
            file.write(chunk)
    if not received:
        raise errors.invalid("The request body is not valid JSON")


async def find_requests(path: Path, *, requests_max: int) -> Requests:
    """Find the requests in a body, and check what concerns them all."""
    requests, names, pause = Requests(path), set[str](), Pause()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as body:
        head = _HEAD.match(body)
        if head is None:
            raise errors.invalid("requests: Field required, as the only one")
        at = head.end()
        while not _TAIL.match(body, at):
            end = _end_of_object(body, at)
            request = _checked(body[at:end], len(requests), names)
            if not requests:
                params = request.get("params")
                model = params.get("model") if isinstance(params, dict) else None
                requests.model = model if isinstance(model, str) else None
            requests.starts.append(at)
            requests.ends.append(end)
            at = _behind_comma(body, end)
            await pause.breathe()
    if not requests:
        raise errors.invalid("requests: at least one request is required")
    if len(requests) > requests_max:
        raise errors.invalid(f"requests: at most {requests_max} requests are allowed")
    return requests


def _end_of_object(body: mmap.mmap, start: int) -> int:
    depth = 0
    for token in _TOKEN.finditer(body, start):
        first = token[0][:1]
        depth += (first in b"{[") - (first in b"}]") if first != b'"' else 0
        if depth <= 0:
            return token.end()
    raise errors.invalid("The request body is not valid JSON")


def _behind_comma(body: mmap.mmap, at: int) -> int:
    comma = _BETWEEN.match(body, at)
    if comma is None:
        return at
    if _TAIL.match(body, comma.end()):
        raise errors.invalid("The request body is not valid JSON")
    return comma.end()


def _checked(raw: bytes, place: int, names: set[str]) -> dict[str, Any]:
    try:
        request = pydantic_core.from_json(raw)
    except ValueError:
        raise errors.invalid("The request body is not valid JSON") from None
    if not isinstance(request, dict):
        raise errors.invalid(f"requests.{place}: Input should be an object")
    name = request.get("custom_id")
    if name is None:
        raise errors.missing(f"requests.{place}.custom_id")
    if not isinstance(name, str) or not _CUSTOM_ID.fullmatch(name):
        raise errors.invalid(
            f"requests.{place}.custom_id: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'"
        )
    if name in names:
        raise errors.invalid(f"requests.{place}.custom_id: {name} is used more than once")
    names.add(name)
    return request
