"""Batches whose lines are not OpenAI's, made into such: then one kind of run serves all.

What a provider gets inline, or as lines without method and URL, is written down as an
input file of OpenAI's shape. A line that cannot be read stays as it is, for the run to
refuse.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import pydantic_core

from proxy.sandbox.engine import Engine, new_id
from proxy.sandbox.files import FileStore, StoredFile
from proxy.sandbox.wire import Call


def stored_input(
    engine: Engine, store: FileStore, call: Call, lines: Iterable[bytes], *, purpose: str
) -> StoredFile:
    """Write the input of a batch down; it is listed to nobody but its batch."""
    path = store.new_path()
    with path.open("wb") as file:
        file.writelines(lines)
    now = engine.clock.now()
    file_record = StoredFile(
        id=new_id("file-"),
        project=call.key.project,
        filename="inline.jsonl",
        purpose=purpose,
        path=path,
        size=path.stat().st_size,
        created_at=now,
        visible_at=float("inf"),
        expires_at=None,
    )
    store.add(file_record)
    return file_record


def openai_line(request: Any, *, number: int, endpoint: str, model: str | None) -> bytes:
    """Return a request with `custom_id` and `body` as a line of OpenAI's input."""
    if not isinstance(request, dict) or not isinstance(request.get("body"), dict):
        return b'{"custom_id":%d}\n' % number
    body = request["body"] if model is None else {"model": model, **request["body"]}
    line = {
        "custom_id": request.get("custom_id") or str(number),
        "method": "POST",
        "url": endpoint,
        "body": body,
    }
    return pydantic_core.to_json(line) + b"\n"


def result_items(store: FileStore, ids: Iterable[str | None], *, project: str) -> Iterator[bytes]:
    """Yield every line of result files as an item of a list; broken ones as their name alone."""
    for file_id in ids:
        file = None if file_id is None else store.find(file_id, project=project, now=float("-inf"))
        if file is None:
            continue
        with file.path.open("rb") as lines:
            for line in lines:
                yield _item(line.strip())


def _item(line: bytes) -> bytes:
    try:
        pydantic_core.from_json(line)
    except ValueError:
        _, _, rest = line.partition(b'"custom_id":"')
        return b'{"custom_id":"' + rest.partition(b'"')[0] + b'"}'
    return line
