"""The life of one batch, from `validating` to its end.

A batch keeps to a schedule: validation, then lines that finish evenly over the turnaround, then
finalizing. Its times are those of the schedule, so a clock that jumps past all of them leaves
the same batch behind as one that ran through. A line runs when the schedule says that it is
due, and only lines that ran are billed.
"""

import math
import random
from collections.abc import Callable, Iterator
from typing import IO, Final

from proxy.sandbox.engine import Engine, new_id
from proxy.sandbox.faults import BatchFault
from proxy.sandbox.files import FileStore, StoredFile
from proxy.sandbox.openai_batch import Batch
from proxy.sandbox.openai_batch_check import CheckedInput, InvalidBatchError, Pause, check_input
from proxy.sandbox.openai_batch_lines import LineRunner, Results

_WAKES_MAX: Final = 20
"""How often a batch reports progress between its first and its last line."""

_CLOCK_GRAIN_S: Final = 1e-6
"""Coarser than the rounding of Unix seconds in a float, so that a line due now is due now."""


class _StoppedError(Exception):
    """The batch was cancelled, or its window ended, before its work was done."""

    def __init__(self, status: str, at: float) -> None:
        super().__init__(status)
        self.status = status
        self.at = at


class BatchRun:
    """Drives one batch; `run` is its whole life."""

    def __init__(
        self,
        engine: Engine,
        store: FileStore,
        batch: Batch,
        *,
        enqueued: Callable[[str, str], int],
    ) -> None:
        """`enqueued(project, model)` tells the tokens of batches that are under way."""
        self._engine = engine
        self._store = store
        self._batch = batch
        self._enqueued = enqueued
        self._expiry = batch.expires_at
        self._held_to = 0.0
        """When a fault that held the batch was last lifted; nothing ends before that."""

    async def run(self) -> None:
        """Live through the batch; returns once it is terminal."""
        batch = self._batch
        try:
            # Kept open for the whole life: a deleted input file does not stop its batch.
            with self._opened_input() as file:
                checked = await self._validate(file)
                await self._execute(file, checked)
        except InvalidBatchError as exc:
            batch.errors = [exc.entry]
            batch.enter("failed", self._engine.clock.now())
        except _StoppedError as stopped:
            batch.enter(stopped.status, await self._wound_up(stopped))

    def _opened_input(self) -> IO[bytes]:
        batch = self._batch
        now = self._engine.clock.now()
        file = self._store.find(batch.input_file_id, project=batch.project, now=now)
        if file is None or file.purpose != "batch":
            raise InvalidBatchError(
                "invalid_request",
                f"The input file '{batch.input_file_id}' does not exist or is not for batches.",
                param="file_id",
            )
        return file.path.open("rb")

    async def _validate(self, file: IO[bytes]) -> CheckedInput:
        batch, settings = self._batch, self._engine.settings
        limits = {settings.enqueued_tokens_max, *(m.enqueued_tokens_max for m in settings.models)}
        checked = await check_input(file, batch.endpoint, settings, counts_tokens=limits != {None})
        batch.model = checked.model
        batch.fault_ids = self._engine.faults.for_new_batch(
            key_id=batch.key_id, model=checked.model
        )
        started = await self._reach(batch.created_at + settings.validation_s, "validating")
        self._refuse_if_told()
        self._reserve_tokens(checked)
        batch.total = len(checked.offsets)
        batch.enter("in_progress", started)
        return checked

    def _refuse_if_told(self) -> None:
        for fault in self._faults():
            if fault.fail_code is not None:
                raise InvalidBatchError(fault.fail_code, fault.fail_message, line=fault.fail_line)
        key = self._engine.keys.current(self._batch.key_id, self._batch.project)
        if not key.in_quota and key.quota_surface == "batch":
            raise InvalidBatchError(
                "insufficient_quota", "You exceeded your current quota, please check your plan."
            )

    def _reserve_tokens(self, checked: CheckedInput) -> None:
        batch, settings = self._batch, self._engine.settings
        assert checked.model is not None
        model = settings.model(checked.model)
        limit = model.enqueued_tokens_max if model else None
        limit = settings.enqueued_tokens_max if limit is None else limit
        if limit is None:
            return
        if self._enqueued(batch.project, checked.model) + checked.prompt_tokens > limit:
            raise InvalidBatchError(
                "token_limit_exceeded",
                f"Enqueued token limit reached for {checked.model}. Limit: {limit:,} enqueued "
                "tokens. Please try again once some in_progress batches have been completed.",
            )
        batch.enqueued_tokens = checked.prompt_tokens

    async def _execute(self, file: IO[bytes], checked: CheckedInput) -> None:
        """Run the lines that the schedule allows, write the result files, end the batch."""
        batch = self._batch
        lines = self._in_order(file, checked)
        with Results(self._store.new_path(), self._store.new_path()) as results:
            runner = LineRunner(self._engine, batch, results)
            try:
                await self._run_lines(lines, runner)
                finished = await self._reach(self._line_due(batch.total), "in_progress")
                batch.enter("finalizing", finished)
                due = finished + self._engine.settings.finalizing_s
                status, ended = "completed", await self._reach(due, "finalizing")
            except _StoppedError as stopped:
                status, ended = stopped.status, await self._wound_up(stopped)
                await runner.give_up(lines, status)
        self._publish(results)
        batch.enter(status, ended)

    def _in_order(self, file: IO[bytes], checked: CheckedInput) -> Iterator[bytes]:
        order = list(range(len(checked.offsets)))
        seed = self._engine.settings.shuffle_seed
        if seed is not None:
            random.Random(f"{seed}/{self._batch.ordinal}").shuffle(order)  # noqa: S311
        for place in order:
            file.seek(checked.offsets[place])
            yield file.readline()

    async def _run_lines(self, lines: Iterator[bytes], runner: LineRunner) -> None:
        batch, clock = self._batch, self._engine.clock
        pause = Pause()
        step = max(1, batch.total // _WAKES_MAX)
        while runner.done < batch.total:
            stop = self._stop_at("in_progress")
            allowed = min(
                (f.stop_after for f in self._faults() if f.stop_after is not None),
                default=batch.total,
            )
            if runner.done < min(allowed, self._lines_due(min(clock.now(), stop))):
                runner.run(next(lines))
                await pause.breathe()
                continue
            self._raise_if_stopped("in_progress")
            ahead = min(batch.total, runner.done + step)
            await self._rest(min(stop, self._line_due(ahead)) if runner.done < allowed else stop)

    def _lines_due(self, at: float) -> int:
        turnaround = self._engine.settings.turnaround_s
        if turnaround <= 0:
            return self._batch.total
        elapsed = at - self._batch.at["in_progress"] + _CLOCK_GRAIN_S
        return min(self._batch.total, math.floor(self._batch.total * elapsed / turnaround))

    def _line_due(self, lines: int) -> float:
        share = lines / self._batch.total
        return self._batch.at["in_progress"] + self._engine.settings.turnaround_s * share

    def _publish(self, results: Results) -> None:
        batch, now = self._batch, self._engine.clock.now()
        for kind, path in results.non_empty():
            file = StoredFile(
                id=new_id("file-"),
                project=batch.project,
                filename=f"{batch.id}_{kind}.jsonl",
                purpose="batch_output",
                path=path,
                size=path.stat().st_size,
                created_at=now,
                visible_at=now,
                expires_at=None if batch.output_life_s is None else now + batch.output_life_s,
            )
            self._store.add(file)
            if kind == "output":
                batch.output_file_id = file.id
            else:
                batch.error_file_id = file.id

    async def _reach(self, due: float, stage: str) -> float:
        """Wait for `due`, and for the end of any fault that holds the batch in `stage`.

        Returns the time reached: `due`, or when the batch was released if that was later. Raises
        `_StoppedError` if a cancel or the end of the window came first.
        """
        while True:
            is_held, reached = self._is_held(stage), max(due, self._held_to)
            if not is_held and reached <= min(self._engine.clock.now(), self._stop_at(stage)):
                return reached
            self._raise_if_stopped(stage)
            await self._rest(self._stop_at(stage) if is_held else min(due, self._stop_at(stage)))
            if is_held:
                self._held_to = self._engine.clock.now()

    async def _wound_up(self, stopped: _StoppedError) -> float:
        """Wait until a stopped batch is over; a cancelled one takes a while. Return when."""
        if stopped.status != "cancelled":
            return stopped.at
        due = stopped.at + self._engine.settings.cancel_s
        while self._engine.clock.now() < due or self._is_held("cancelling"):
            if self._is_held("cancelling"):
                await self._rest(math.inf)
                self._held_to = self._engine.clock.now()
            else:
                await self._rest(due)
        return max(due, self._held_to)

    def _stop_at(self, stage: str) -> float:
        """When a cancel or the end of the window stops the work; a held batch never expires."""
        cancelled = math.inf if self._batch.cancel_at is None else self._batch.cancel_at
        if any(fault.expire for fault in self._faults()):
            self._expiry = min(self._expiry, self._engine.clock.now())
        return cancelled if self._is_held(stage) else min(cancelled, self._expiry)

    def _raise_if_stopped(self, stage: str) -> None:
        at = self._stop_at(stage)
        if at <= self._engine.clock.now():
            if at == self._batch.cancel_at:
                raise _StoppedError("cancelled", at)
            raise _StoppedError("expired", max(at, self._held_to))

    def _is_held(self, stage: str) -> bool:
        return any(fault.stick_in == stage for fault in self._faults())

    def _faults(self) -> Iterator[BatchFault]:
        return self._engine.faults.of_batch(self._batch.id, self._batch.fault_ids)

    async def _rest(self, until: float) -> None:
        seen = (self._engine.faults.version, self._batch.cancel_at)
        await self._engine.workers.rest(
            until,
            interrupted=lambda: seen != (self._engine.faults.version, self._batch.cancel_at),
        )
