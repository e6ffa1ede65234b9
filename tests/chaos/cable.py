"""The network between an instance and its store, which can be cut."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress


class Cable:
    """Passes connections on to a port of this machine, as long as it is whole.

    `on_data` is called before anything that came is passed on, in either direction.
    """

    def __init__(self, target: int, on_data: Callable[[], None] = lambda: None) -> None:
        self._target = target
        self._on_data = on_data
        self._whole = asyncio.Event()
        self._whole.set()
        self._ends: set[asyncio.StreamWriter] = set()
        self._passing: set[asyncio.Task[None]] = set()
        self.port = 0

    @asynccontextmanager
    async def laid(self) -> AsyncIterator["Cable"]:
        """Pass on until the block ends."""
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._passing:
                task.cancel()
            if self._passing:
                await asyncio.wait(self._passing)

    def cut(self, *, abruptly: bool) -> None:
        """Let nothing through: connections break at once, or stay and fall silent."""
        self._whole.clear()
        if abruptly:
            for end in self._ends:
                end.transport.abort()

    def mend(self) -> None:
        """Let everything through again, what was held back included."""
        self._whole.set()

    def lose(self) -> None:
        """Let what is connected fall silent for good, as when the other machine is gone."""
        self._whole.clear()
        self._whole = asyncio.Event()
        self._whole.set()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        ends = {writer}
        self._ends.add(writer)
        whole = self._whole
        try:
            await whole.wait()
            far = await asyncio.open_connection("127.0.0.1", self._target)
            ends.add(far[1])
            self._ends.add(far[1])
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pass(reader, far[1], whole))
                tasks.create_task(self._pass(far[0], writer, whole))
        except OSError:
            # Nobody is at the other end.
            return
        except asyncio.CancelledError:
            # The block ends. asyncio asks what it runs for a connection how it failed, and
            # takes a cancellation for a bug of its own.
            return
        finally:
            self._passing.discard(task)
            self._ends -= ends
            for end in ends:
                end.transport.abort()

    async def _pass(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, whole: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                self._on_data()
                await whole.wait()
                target.write(data)
                await target.drain()
        target.close()
