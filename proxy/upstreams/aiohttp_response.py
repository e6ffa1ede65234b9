"""One call over one of aiohttp's connections: the request's bytes out, the answer's in."""

import asyncio
import select
from typing import Final

from aiohttp import ClientError, ClientOSError, ClientPayloadError, ServerTimeoutError
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage, StreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from proxy.core.fields import LENGTH_DIGITS_MAX, RawHeaders, has_length
from proxy.ports.tunnel import TunnelEnd
from proxy.ports.upstream import (
    BodySourceError,
    Cause,
    ClientLimits,
    Phase,
    UpstreamRequest,
    UpstreamUnavailableError,
    Write,
)
from proxy.upstreams.sending import LAST_CHUNK, let_news_be_read

_READ_LIMIT: Final = 1 << 16
# aiohttp holds a peer back above twice the limit.
_PAUSED_ABOVE: Final = 2 * _READ_LIMIT


class AiohttpResponse:
    """An `UpstreamResponse` that sends its request, too."""

    def __init__(
        self, connection: Connection, request: UpstreamRequest, limits: ClientLimits
    ) -> None:
        protocol = connection.protocol
        assert protocol is not None
        assert protocol.transport is not None
        protocol.set_response_params(
            skip_payload=request.method == "HEAD",
            read_until_eof=True,
            auto_decompress=False,
            read_timeout=None,
            read_bufsize=_READ_LIMIT,
            max_line_size=limits.max_line_bytes,
            max_field_size=limits.max_field_bytes,
            max_headers=limits.max_fields,
        )
        self._connection = connection
        self._protocol = protocol
        self._transport = protocol.transport
        self._request = request
        self._limits = limits
        self._failure: UpstreamUnavailableError | BodySourceError | None = None
        self._continue: asyncio.Future[None] | None = None
        self._payload: StreamReader = EMPTY_PAYLOAD
        self._headed = False
        self._sent_all = False
        self.upload: asyncio.Task[None] | None = None
        self.status = 0
        self.reason = ""
        self.headers: RawHeaders = ()
        self.chunked = False
        # aiohttp's parser takes the chunks apart and drops trailer fields.
        self.framed = False
        self.trailers: RawHeaders = ()
        self.body_bytes = 0
        self.at_end = False

    # The way out.

    def send_whole(self, body: bytes | None) -> None:
        """Send head and body in one write."""
        data = self._request.written_head()
        if self._request.chunked:
            data += (self._request.written_piece(body) if body else b"") + LAST_CHUNK
        elif body:
            data += body
        self._transport.write(data)
        self._sent_all = True
        self._await_first_byte()

    async def send_pieces(self) -> None:
        """Send the head and then the body as it arrives; the task of an upload.

        Never raises: what goes wrong is told by the reading side, which a cut
        connection wakes.
        """
        try:
            await self._send_pieces()
        except (UpstreamUnavailableError, BodySourceError) as exc:
            self._failure = exc
            self._transport.abort()
        except OSError:
            # The upstream hung up on the upload. Whether it answered first
            # (a 413, say) is for the reading side to find out.
            return

    async def _send_pieces(self) -> None:
        request = self._request
        if request.expect_continue:
            self._continue = asyncio.get_running_loop().create_future()
        writer = StreamWriter(self._protocol, asyncio.get_running_loop())
        # Unlike the transport, it says in any loop that the upstream is gone already.
        await writer.write(request.written_head(), drain=False)
        await self._await_continue()
        if isinstance(request.body, bytes):
            await self._send_piece(writer, request.body)
        elif request.body is not None:
            async for piece in request.body:
                await self._send_piece(writer, piece)
        if request.chunked:
            await writer.write(LAST_CHUNK)
        self._sent_all = True
        if not self._headed:
            self._await_first_byte()

    async def _send_piece(self, writer: StreamWriter, piece: bytes) -> None:
        if not piece:
            return
        if has_news(self._protocol):
            await let_news_be_read()
        try:
            async with asyncio.timeout(self._limits.idle_s):
                await writer.write(self._request.written_piece(piece))
        except TimeoutError as exc:
            raise self._unavailable("takes no more of the body", Phase.UPLOAD, "timeout") from exc

    async def _await_continue(self) -> None:
        if self._continue is None:
            return
        try:
            async with asyncio.timeout(self._limits.continue_s):
                await self._continue
        except TimeoutError:
            self._continue = None

    def _await_first_byte(self) -> None:
        self._protocol.read_timeout = self._limits.first_byte_s
        self._protocol.start_timeout()

    # The way in.

    async def read_head(self) -> None:
        """Wait for the final head, passing on informational ones."""
        while True:
            try:
                message, payload = await self._protocol.read()
            except HttpProcessingError as exc:
                raise self._unavailable(
                    "sent no valid HTTP", Phase.FIRST_BYTE, "malformed"
                ) from exc
            except (ClientError, OSError) as exc:
                raise self._first_byte_error(exc) from exc
            # Below 100 would be passed on as informational, in fewer digits.
            odd = message.code < 100 or any(_is_doubtful(*field) for field in message.raw_headers)
            if odd:
                raise self._unavailable("sent no valid HTTP", Phase.FIRST_BYTE, "malformed")
            if message.code >= 200 or (message.code == 101 and self._request.upgrade):
                break
            self._pass_informational(message)
        self._take_head(message, payload)

    def _pass_informational(self, message: RawResponseMessage) -> None:
        if message.code == 101:
            raise self._unavailable("switched protocols unasked", Phase.FIRST_BYTE, "malformed")
        if self._request.on_informational is not None:
            self._request.on_informational(message.code, message.reason, message.raw_headers)
        if message.code == 100 and self._continue is not None and not self._continue.done():
            self._continue.set_result(None)
        if self.upload is None or self.upload.done():
            # aiohttp's protocol takes any head for the end of waiting.
            self._await_first_byte()

    def _take_head(self, message: RawResponseMessage, payload: StreamReader) -> None:
        self._headed = True
        self._payload = payload
        self.status = message.code
        self.reason = message.reason
        self.headers = message.raw_headers
        self.chunked = message.chunked
        self._protocol.read_timeout = None if message.code == 101 else self._limits.idle_s
        if self._continue is not None and not self._continue.done() and self.upload is not None:
            # A final answer instead of 100: the body is not wanted.
            self.upload.cancel()
        if message.code != 101 and not payload.is_eof() and payload.total_bytes <= _PAUSED_ABOVE:
            self._protocol.start_timeout()
        if payload is EMPTY_PAYLOAD and message.code != 101:
            self._settle()

    def take_ready(self) -> bytes:
        if self.at_end or self._payload.exception() is not None:
            return b""
        data = self._payload.read_nowait()
        self.body_bytes += len(data)
        self._settle()
        return data

    async def next_chunk(self) -> bytes:
        if self.at_end:
            return b""
        self._raise_failure()
        try:
            data = await self._payload.readany()
        except (ClientError, OSError, RuntimeError):
            # RuntimeError: the reader found the connection gone already.
            data = self._take_before_break()
        self.body_bytes += len(data)
        self._settle()
        return data

    async def pump(self, write: Write) -> None:
        while not self.at_end:
            data = await self.next_chunk()
            if data and not write(data):
                return

    def note_closed(self) -> None:
        """End the wait for a body that does not go on.

        aiohttp closes the connection when a chunk is malformed, stops its timer, and tells
        whoever waits for a head; whoever waits for the body would wait forever.
        """
        if not self._payload.is_eof() and self._payload.exception() is None:
            self._payload.set_exception(ClientPayloadError())

    def _take_before_break(self) -> bytes:
        """Return what had arrived before the body broke off; the break itself comes next."""
        self._failure = self._failure or self._body_error()
        # The public readers raise first and lose it; an SSE consumer needs it.
        data: bytes = self._payload._read_nowait(-1)  # noqa: SLF001
        if not data:
            self._raise_failure()
        return data

    def _settle(self) -> None:
        """Notice the end of the body and give the connection back."""
        if not self._payload.at_eof() or self._failure is not None:
            return
        if self._ended_by_reset():
            self._failure = self._unavailable("broke off its answer", Phase.IDLE, "reset")
            return
        self.at_end = True
        self.close()

    def _ended_by_reset(self) -> bool:
        """Tell a body that ends with the connection from one that was cut by a reset.

        aiohttp's parser takes both for the end.
        """
        if self.chunked or not isinstance(self._protocol.exception(), ClientOSError):
            return False
        return not has_length(self.headers)

    def tunnel(self) -> TunnelEnd:
        assert self.status == 101
        writer = StreamWriter(self._protocol, asyncio.get_running_loop())
        end = TunnelEnd(self._transport, writer.drain)
        self._protocol.set_parser(end, None)
        return end

    def close(self) -> None:
        if self.upload is not None and not self._sent_all:
            self.upload.cancel()
        is_whole = self.at_end and self._sent_all and self._failure is None
        if is_whole and not self._request.upgrade:
            self._connection.release()
            return
        if self.status != 101:
            # Closing would first try to send what an upstream may never read.
            self._transport.abort()
        self._connection.close()

    # What went wrong.

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _first_byte_error(self, exc: Exception) -> Exception:
        if self._failure is not None:
            return self._failure
        if isinstance(exc, ServerTimeoutError):
            return self._unavailable("did not answer in time", Phase.FIRST_BYTE, "timeout")
        return self._unavailable("hung up without an answer", Phase.FIRST_BYTE, "reset")

    def _body_error(self) -> UpstreamUnavailableError:
        if isinstance(self._payload.exception(), ServerTimeoutError):
            return self._unavailable("fell silent within its answer", Phase.IDLE, "timeout")
        return self._unavailable("broke off its answer", Phase.IDLE, "truncated")

    def _unavailable(self, what: str, phase: Phase, cause: Cause) -> UpstreamUnavailableError:
        name = self._request.upstream.name
        return UpstreamUnavailableError(
            f"upstream {name!r} {what}", phase=phase, cause=cause, sent=True
        )


def _is_doubtful(name: bytes, value: bytes) -> bool:
    """Tell whether aiohttp's parser reads a field of an answer as few others do."""
    # It obeys `Content-Length : 2`, takes the largest length of all for no body, and of a coding
    # that it does not know a body that ends with the connection, as which it would be passed on.
    match name.lower():
        case b"content-length":
            return len(value) > LENGTH_DIGITS_MAX
        case b"transfer-encoding":
            return value.lower() != b"chunked"
    return name.endswith(b" ")


def has_news(protocol: ResponseHandler) -> bool:
    """Tell whether a connection has something to read, unseen by the loop as yet.

    If it is free it is owed nothing, so that is the upstream's goodbye (or worse),
    and a call sent after it would be lost.
    """
    transport = protocol.transport
    sock = None if transport is None else transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))
