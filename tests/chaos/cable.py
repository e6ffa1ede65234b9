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
            self.cut(abruptly=True)
            self.mend()

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
        whole = self._whole
        await whole.wait()
        try:
            far = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, far[1]}
        self._ends |= ends
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pass(reader, far[1], whole))
                tasks.create_task(self._pass(far[0], writer, whole))
        finally:
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
