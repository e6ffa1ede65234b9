"""What interactive calls of all dialects do: take their time, and pay for what they were sent."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace

from proxy.sandbox.engine import Engine, Execution


async def compute(engine: Engine) -> None:
    """Take as long as an answer takes; a caller that leaves meanwhile is noted."""
    has_computed = False
    try:
        await engine.clock.sleep(engine.settings.latency_s)
        has_computed = True
    finally:
        if not has_computed:
            engine.ledger.abandoned += 1


async def metered(
    engine: Engine,
    execution: Execution,
    frames: Sequence[bytes],
    bill: Callable[[Execution], None],
) -> AsyncGenerator[bytes, None]:
    """Yield the frames; bill what was sent, all of it or up to where the caller left."""
    sent = 0
    try:
        for frame in frames:
            if sent:
                await engine.clock.sleep(engine.settings.stream_pause_s)
            sent += 1
            yield frame
    finally:
        if sent < len(frames):
            engine.ledger.abandoned += 1
            tokens = execution.output_tokens * sent // len(frames)
            execution = replace(execution, output_tokens=tokens)
        bill(execution)
