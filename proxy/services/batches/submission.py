"""What a provider is sent of a batch: its lines, of a length that is known before they are read."""

from collections.abc import AsyncIterator, Callable
from datetime import datetime

from proxy.core.batch import Batch
from proxy.core.body import with_model
from proxy.core.ids import custom_id
from proxy.ports.batches import BatchStore
from proxy.ports.provider import Provider, Submission


async def describe(
    batches: BatchStore, batch: Batch, provider: Provider, *, now: datetime
) -> Submission:
    """Describe the input of `batch`, whose length the item table alone tells.

    Where batches of the provider know the model by another name, lines get longer or
    shorter, each by how its caller wrote the model; then all are read once more, unless
    they are at the provider.
    """
    limits = provider.limits(batch.key.endpoint)
    model = limits.batch_model(batch.key.model) or batch.key.model
    lines = _lines(batches, batch, provider, model)
    count, input_bytes = await _size(batches, batch, provider)
    if model != batch.key.model and batch.input_file_id is None:
        input_bytes = sum([len(chunk) async for chunk in lines()])
    nearest = batch.nearest_deadline
    return Submission(
        batch_id=batch.id,
        endpoint=batch.key.endpoint,
        model=model,
        headers=batch.key.headers,
        count=count,
        input_bytes=input_bytes,
        lines=lines,
        slack=None if nearest is None else nearest - now,
    )


async def _size(batches: BatchStore, batch: Batch, provider: Provider) -> tuple[int, int]:
    count = size = 0
    async for chunk in batches.items(batch.id):
        for item in chunk:
            before, after = provider.frame(custom_id(item.job_id, item.attempt), batch.key.endpoint)
            size += len(before) + item.body_bytes + len(after)
        count += len(chunk)
    return count, size


def _lines(
    batches: BatchStore, batch: Batch, provider: Provider, model: str
) -> Callable[[], AsyncIterator[bytes]]:
    async def lines() -> AsyncIterator[bytes]:
        async for chunk in batches.lines(batch.id):
            parts: list[bytes] = []
            for line in chunk:
                before, after = provider.frame(
                    custom_id(line.job_id, line.attempt), batch.key.endpoint
                )
                same = model == batch.key.model
                parts += (before, line.body if same else with_model(line.body, model), after)
            yield b"".join(parts)

    return lines
