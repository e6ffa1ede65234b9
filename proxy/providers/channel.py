"""A thread with the clients that it uses, and downloads that share it fairly."""

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Final, TypeVar

from proxy.core.errors import ProviderUnavailableError
from proxy.ports.clock import Clock
from proxy.ports.jobs import Credential
from proxy.ports.provider import ResultLine
from proxy.providers.result_lines import LineCutter, check_whole
from proxy.providers.site import Site
from proxy.providers.worker import Call, Worker

if TYPE_CHECKING:
    from proxy.providers.openai_client import Session, Sessions

T = TypeVar("T")

CALL_S: Final = 120.0
"""Bound of one short call, waiting for the thread included."""

READ_BYTES: Final = 256 * 1024
"""How much of a result file is read and handed out at a time."""


class Channel:
    """One thread to one upstream. Its clients are touched by no other thread."""

    def __init__(self, name: str, site: Site, clock: Clock) -> None:
        self.worker = Worker(name)
        self._site = site
        self._clock = clock
        self._sessions: Sessions | None = None

    async def run(
        self,
        what: str,
        credential: Credential,
        send: Callable[["Session"], T],
        *,
        on_abort: Callable[[], None] = lambda: None,
        within_s: float = CALL_S,
    ) -> T:
        """Call `send` in the thread, with the credential's client, once.

        `on_abort` ends whatever else than the connection the thread may wait for.
        """

        def work(call: Call) -> T:
            session = self.sessions().of(credential.headers)
            with self.translated(what, session), call.over(session.connection.cut, on_abort):
                return send(session)

        return await self.worker.run(what, work, within_s=within_s)

    def download(self, credential: Credential, file_id: str) -> "Download":
        """Return a result file, to be read step by step."""
        return Download(self, credential, file_id)

    def sessions(self) -> "Sessions":
        """Return the clients; only from the thread.

        Raises:
            ProviderUnavailableError: if no more files may be open; nothing was sent.
        """
        if self._sessions is None:
            try:
                # Here, since the import takes half a second and 58 MB.
                from proxy.providers.openai_client import Sessions  # noqa: PLC0415

                self._sessions = Sessions(self._site)
            except OSError as exc:
                raise ProviderUnavailableError(
                    f"its client cannot be had: {exc.strerror}", sent=False
                ) from exc
            # What was imported stays: looking through it again and again, the collector
            # would stop the event loop for 100 ms at a time.
            gc.freeze()
        return self._sessions

    def translated(self, what: str, session: "Session") -> AbstractContextManager[None]:
        """Return the context in which failures are raised as ours; only from the thread."""
        from proxy.providers.openai_client import translated  # noqa: PLC0415

        return translated(what, session.secrets, self._clock.now)

    async def aclose(self) -> None:
        """Abort what is under way; close connections and thread."""
        self.worker.post(self._close_sessions)
        await self.worker.aclose()

    def _close_sessions(self) -> None:
        if self._sessions is not None:
            self._sessions.close()


class Download:
    """A result file that is read one step at a time.

    Between two steps the thread is free for others, so whoever reads slowly, or
    calls the provider while reading, holds up nobody.
    """

    def __init__(self, channel: Channel, credential: Credential, file_id: str) -> None:
        self._channel = channel
        self._credential = credential
        self._file_id = file_id
        self._what = f"download of {file_id}"
        self._cutter = LineCutter()
        self._stack = ExitStack()
        self._session: Session | None = None
        self._chunks: Iterator[bytes] | None = None
        self._is_at_end = False

    async def next_lines(self) -> list[ResultLine] | None:
        """Return the next lines, perhaps none; nothing after the last.

        Raises:
            ProviderRejectedError: at the end, if it came before that of the file.
        """
        if self._is_at_end:
            check_whole(self._cutter)
            return None
        return await self._channel.worker.run(self._what, self._step, within_s=CALL_S)

    def close(self) -> None:
        """Close the connection, as soon as the thread is free."""
        self._channel.worker.post(self._stack.close)

    def _step(self, call: Call) -> list[ResultLine]:
        if self._session is None:
            # A session of its own: others call the provider between two steps.
            lent = self._channel.sessions().lent(self._credential.headers)
            self._session = self._stack.enter_context(lent)
        session = self._session
        with self._channel.translated(self._what, session), call.over(session.connection.cut):
            if self._chunks is None:
                self._chunks = self._open(session)
            data = next(self._chunks, None)
        if data is not None:
            return self._cutter.feed(data)
        self._is_at_end = True
        return self._cutter.end()

    def _open(self, session: "Session") -> Iterator[bytes]:
        answer = session.client.files.with_streaming_response.content(self._file_id)
        return self._stack.enter_context(answer).iter_bytes(READ_BYTES)
