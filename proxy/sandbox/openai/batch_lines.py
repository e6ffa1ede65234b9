"""Running single lines of a batch, and the two files that their results go to."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import pydantic_core

from proxy.sandbox.engine import Engine, new_id
from proxy.sandbox.faults import LineFault
from proxy.sandbox.lines import Pause, spoiled
from proxy.sandbox.openai import errors
from proxy.sandbox.openai.batch import Batch
from proxy.sandbox.openai.execute import execute
from proxy.sandbox.openai.habits import Habits
from proxy.sandbox.wire import ApiError

_GIVEN_UP: Final = {
    "expired": (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    "cancelled": ("batch_cancelled", "This request was not executed: the batch was cancelled."),
}


class Results:
    """The output and the error file of a batch, while they are written."""

    def __init__(self, output: Path, error: Path) -> None:
        self._paths = {"output": output, "error": error}
        self._files = {kind: path.open("wb") for kind, path in self._paths.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for file in self._files.values():
            file.close()

    def write(self, kind: str, line: bytes) -> None:
        """Append a line to the `output` or the `error` file."""
        self._files[kind].write(line + b"\n")

    def kept(self, *, with_errors: bool) -> Iterator[tuple[str, Path]]:
        """Yield kind and path of each file that has lines, and remove the others.

        `with_errors` keeps the error file, lines or not.
        """
        for kind, path in self._paths.items():
            if path.stat().st_size or (with_errors and kind == "error"):
                yield kind, path
            else:
                path.unlink()


class LineRunner:
    """Executes lines, bills them and writes their results."""

    def __init__(self, engine: Engine, batch: Batch, results: Results, habits: Habits) -> None:
        self._engine = engine
        self._batch = batch
        self._results = results
        self._shown = habits.answer
        self._refused_line = habits.refused_line

    def run(self, raw: bytes) -> None:
        """Run one line of the input, which was checked before."""
        line = pydantic_core.from_json(raw)
        custom_id, body = line["custom_id"], line["body"]
        batch = self._batch
        fault = self._engine.faults.for_line(
            custom_id=custom_id, key_id=batch.key_id, model=batch.model
        )
        try:
            self._refuse_if_told(fault)
            answer = self._answer(body, custom_id)
        except ApiError as exc:
            batch.failed += 1
            response = _response(exc.status, errors.error_body(exc))
            refused = self._refused_line(_result(custom_id, response=response))
            self._results.write("error", pydantic_core.to_json(refused))
            return
        batch.completed += 1
        result = pydantic_core.to_json(_result(custom_id, response=_response(200, answer)))
        for written in spoiled(result, fault):
            self._results.write("output", written)

    async def give_up(self, lines: Iterator[bytes], status: str) -> None:
        """Report all remaining lines as never executed, for a batch that ends in `status`."""
        code, message = _GIVEN_UP[status]
        pause = Pause()
        for raw in lines:
            self._batch.failed += 1
            custom_id = pydantic_core.from_json(raw)["custom_id"]
            error = {"code": code, "message": message}
            refused = self._refused_line(_result(custom_id, error=error))
            self._results.write("error", pydantic_core.to_json(refused))
            await pause.breathe()

    def _refuse_if_told(self, fault: LineFault | None) -> None:
        key = self._engine.keys.current(self._batch.key_id, self._batch.project)
        if not key.in_quota and key.quota_surface == "line":
            raise errors.quota_exhausted()
        if fault is not None and fault.outcome == "status":
            raise ApiError(
                fault.status,
                fault.message,
                code=fault.code,
                error_type=fault.error_type or errors.type_of(fault.status),
            )

    def _answer(self, body: dict[str, Any], custom_id: str) -> dict[str, Any]:
        engine, batch = self._engine, self._batch
        execution = execute(batch.endpoint, body, engine.settings, now=engine.clock.now())
        batch.input_tokens += execution.input_tokens
        batch.output_tokens += execution.output_tokens
        engine.bill(
            execution,
            key_id=batch.key_id,
            endpoint=batch.endpoint,
            lane="batch",
            custom_id=custom_id,
            batch_id=batch.id,
        )
        return self._shown(execution.body)


def _response(status: int, body: dict[str, Any]) -> dict[str, Any]:
    return {"status_code": status, "request_id": new_id("req_"), "body": body}


def _result(
    custom_id: str,
    *,
    response: dict[str, Any] | None = None,
    error: dict[str, str] | None = None,
) -> dict[str, Any]:
    # An HTTP error stands in `response`, with `error` null; `error` is for what never ran.
    return {
        "id": new_id("batch_req_"),
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
