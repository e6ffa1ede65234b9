"""A batch of the greatest size, in bounded memory, beside other calls."""

import json
import tracemalloc
from pathlib import Path

from tests.sandbox.rigs import chat_body, started

LINES = 1_500
PROMPT = "a longer question about nothing in particular " * 40


def write_input(path: Path) -> None:
    with path.open("wb") as file:
        for number in range(LINES):
            entry = {
                "custom_id": f"r{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": chat_body(f"{number} {PROMPT}"),
            }
            file.write(json.dumps(entry).encode() + b"\n")


async def test_the_server_answers_while_a_big_batch_is_validated_and_run(tmp_path):
    write_input(tmp_path / "big.jsonl")
    async with started() as rig:
        with (tmp_path / "big.jsonl").open("rb") as file:
            uploaded = await rig.sdk.files.create(file=file, purpose="batch")
        batch = await rig.sdk.batches.create(
            input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        answered = 0
        while (await rig.sdk.batches.retrieve(batch.id)).status != "completed":
            answered += 1

        done = await rig.sdk.batches.retrieve(batch.id)
        assert answered > 3
        assert done.request_counts is not None
        assert done.request_counts.completed == LINES
        assert len(await rig.raw_lines(done.output_file_id)) == LINES


async def test_an_upload_and_a_batch_stay_out_of_memory(tmp_path):
    write_input(tmp_path / "big.jsonl")
    size = (tmp_path / "big.jsonl").stat().st_size
    async with started() as rig:
        tracemalloc.start()
        try:
            with (tmp_path / "big.jsonl").open("rb") as file:
                uploaded = await rig.sdk.files.create(file=file, purpose="batch")
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            batch = await rig.sdk.batches.create(
                input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
            await rig.running.settle()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert (await rig.batch(batch.id))["status"] == "completed"
        assert peak - before < size / 2
