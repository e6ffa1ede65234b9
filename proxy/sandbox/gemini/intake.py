"""Taking in a batch: its rows are found, and all that makes Gemini refuse the whole is checked.

A row that is no such message refuses the batch at create, with the place of an inlined row and
without that of a row in a file. What a message asks for is checked when it runs.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pydantic_core

from proxy.sandbox.gemini import errors
from proxy.sandbox.gemini.content import prompt_size
from proxy.sandbox.gemini.fields import EMBED_FIELDS, GENERATE_FIELDS, request_message
from proxy.sandbox.lines import Pause
from proxy.sandbox.wire import ApiError

FIELDS: Final = {"generateContent": GENERATE_FIELDS, "embedContent": EMBED_FIELDS}
"""Fields of the request of a row, by the method that it is for."""

_ROW_FIELDS: Final = frozenset({"request", "metadata", "key"})
_INLINED: Final = "batch.input_config.requests.requests"


@dataclass(slots=True)
class Rows:
    """The requests of one batch: a file, and where each of them stands in it."""

    path: Path
    is_inline: bool
    starts: "array[int]" = field(default_factory=lambda: array("Q"))
    prompt_tokens: int = 0

    def __len__(self) -> int:
        return len(self.starts)

    def read(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Yield what names each row in its result, and its request, in order."""
        with self.path.open("rb") as file:
            for start in self.starts:
                file.seek(start)
                row = pydantic_core.from_json(file.readline())
                name = "metadata" if self.is_inline else "key"
                yield {name: row[name]} if name in row else {}, row["request"]


async def rows_of_file(path: Path, method: str) -> Rows:
    """Find the rows of an input file; raises `ApiError` at the first that is none."""
    rows, pause, offset = Rows(path, is_inline=False), Pause(), 0
    with path.open("rb") as file:
        for raw in file:
            try:
                row = pydantic_core.from_json(raw)
            except ValueError:
                raise errors.invalid("Request contains an invalid argument.") from None
            _check(rows, row, method, place=None)
            rows.starts.append(offset)
            offset += len(raw)
            await pause.breathe()
    if not rows.starts:
        raise errors.invalid("The input file has no requests.")
    return rows


async def inlined_rows(path: Path, requests: Any, method: str) -> Rows:
    """Write the inlined requests of a create to `path`, each of which is checked before."""
    if not isinstance(requests, list) or not requests:
        raise errors.invalid(f"{_INLINED}: at least one request is required.")
    rows, pause, offset = Rows(path, is_inline=True), Pause(), 0
    with path.open("wb") as file:
        for place, row in enumerate(requests):
            _check(rows, row, method, place=place)
            rows.starts.append(offset)
            offset += file.write(pydantic_core.to_json(row) + b"\n")
            await pause.breathe()
    return rows


def _check(rows: Rows, row: Any, method: str, *, place: int | None) -> None:
    """Check one row, and count its tokens; `place` is where it stands among inlined ones."""
    at = f"{_INLINED}[{place}]"
    try:
        message = request_message(row, _ROW_FIELDS, at=at)
        request = request_message(message.get("request"), FIELDS[method], at=f"{at}.request")
        if not isinstance(request.get("contents", []), list | dict):
            raise errors.invalid(f"Invalid value at '{at}.request.contents'.")
    except ApiError:
        if place is None:
            raise errors.invalid("Request contains an invalid argument.") from None
        raise
    rows.prompt_tokens += prompt_size(request)
