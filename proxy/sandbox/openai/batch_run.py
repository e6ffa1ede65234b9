"""The life of one batch, from `validating` to its end.

Validation, then lines that finish evenly over the turnaround, then finalizing. Only lines that
ran are billed.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import IO

from proxy.sandbox.engine import Engine, new_id
from proxy.sandbox.files import FileStore, StoredFile
from proxy.sandbox.lines import shuffled
from proxy.sandbox.openai.batch import Batch
from proxy.sandbox.openai.batch_check import CheckedInput, InvalidBatchError, check_input
from proxy.sandbox.openai.batch_lines import LineRunner, Results
from proxy.sandbox.openai.habits import Habits
from proxy.sandbox.schedule import Schedule, StoppedError


class BatchRun:
    """Drives one batch; `run` is its whole life."""

    def __init__(
        self,
        engine: Engine,
        store: FileStore,
        batch: Batch,
        habits: Habits,
        *,
        enqueued: Callable[[str, str], int],
    ) -> None:
        """`enqueued(project, model)` tells the tokens of batches that are under way."""
        self._engine = engine
        self._store = store
        self._batch = batch
        self._habits = habits
        self._enqueued = enqueued
        self._schedule = Schedule(engine, batch)

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
        except StoppedError as stopped:
            batch.enter(stopped.status, await self._schedule.wound_up(stopped))

    def _opened_input(self) -> IO[bytes]:
        batch = self._batch
        now = self._engine.clock.now()
        file = self._store.find(batch.input_file_id, project=batch.project, now=now)
        if file is None or file.purpose != self._habits.purpose:
            raise InvalidBatchError(
                "invalid_request",
                f"The input file '{batch.input_file_id}' does not exist or is not for batches.",
                param="file_id",
            )
        return file.path.open("rb")

    async def _validate(self, file: IO[bytes]) -> CheckedInput:
        batch, settings = self._batch, self._engine.settings
        if self._habits.lines_max is not None:
            settings = replace(settings, lines_max=self._habits.lines_max)
        limits = {settings.enqueued_tokens_max, *(m.enqueued_tokens_max for m in settings.models)}
        checked = await check_input(file, batch.endpoint, settings, counts_tokens=limits != {None})
        batch.model = checked.model
        batch.fault_ids = self._engine.faults.for_new_batch(
            key_id=batch.key_id, model=checked.model
        )
        started = await self._schedule.reach(batch.created_at + settings.validation_s, "validating")
        self._refuse_if_told()
        self._reserve_tokens(checked)
        batch.total = len(checked.offsets)
        batch.enter("in_progress", started)
        return checked

    def _refuse_if_told(self) -> None:
        for fault in self._schedule.faults():
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
            runner = LineRunner(self._engine, batch, results, self._habits)
            try:
                await self._schedule.run_lines(lambda: runner.run(next(lines)))
                finished = await self._schedule.reach(
                    self._schedule.line_due(batch.total), "in_progress"
                )
                batch.enter("finalizing", finished)
                due = finished + self._engine.settings.finalizing_s
                status, ended = "completed", await self._schedule.reach(due, "finalizing")
            except StoppedError as stopped:
                status, ended = stopped.status, await self._schedule.wound_up(stopped)
                await runner.give_up(lines, status)
        self._publish(results)
        batch.enter(status, ended)

    def _in_order(self, file: IO[bytes], checked: CheckedInput) -> Iterator[bytes]:
        seed, ordinal = self._engine.settings.shuffle_seed, self._batch.ordinal
        for place in shuffled(len(checked.offsets), seed=seed, ordinal=ordinal):
            file.seek(checked.offsets[place])
            yield file.readline()

    def _publish(self, results: Results) -> None:
        batch, now = self._batch, self._engine.clock.now()
        for kind, path in results.kept(with_errors=self._habits.names_empty_error_file):
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
