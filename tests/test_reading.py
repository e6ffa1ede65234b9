"""Little is read at once, over both event loops, and nothing of it is lost."""

import asyncio
import ssl

import pytest

from proxy.reading import READ_AT_MOST, SmallReads, new_inbox
from proxy.runtime import run
from tests.helpers.certificates import write_certificate
from tests.helpers.loops import LOOPS
from tests.helpers.raw_upstream import TIMEOUT_S, wait_until

SENT = (bytes(range(256)) * 4096, bytes(range(255, -1, -1)) * 4096)
MUCH = 32 << 20


class Taker(asyncio.Protocol):
    """Keeps what it is told, piece by piece."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.pieces: list[bytes] = []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.told.append("made")
        self.transport = transport

    def data_received(self, data):
        self.pieces.append(data)

    def eof_received(self):
        self.told.append("eof")

    def pause_writing(self):
        self.told.append("pause")

    def resume_writing(self):
        self.told.append("resume")

    def connection_lost(self, exc):
        self.lost.set_result(exc)


@pytest.fixture(params=["plain", "tls"])
def secured(request, tmp_path) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    if request.param == "plain":
        return None, None
    certificate = write_certificate(tmp_path / "server.pem")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    return serving, ssl.create_default_context(cafile=str(certificate))


@pytest.mark.parametrize("kind", LOOPS)
def test_what_comes_at_once_is_read_in_small_pieces(kind, secured):
    serving, trusting = secured

    async def main() -> None:
        inbox, takers = new_inbox(), []

        def protocol() -> SmallReads:
            takers.append(Taker())
            return SmallReads(takers[-1], inbox)

        loop = asyncio.get_running_loop()
        server = await loop.create_server(protocol, "127.0.0.1", 0, ssl=serving)
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(TIMEOUT_S):
            # Two, which read into one buffer by turns.
            ends = [await asyncio.open_connection("127.0.0.1", port, ssl=trusting) for _ in "ab"]
            for (_, writer), sent in zip(ends, SENT, strict=True):
                writer.write(sent)
            for _, writer in ends:
                writer.close()
            for taker in takers:
                assert await taker.lost is None
        server.close()

        assert sorted(b"".join(taker.pieces) for taker in takers) == sorted(SENT)
        assert max(len(piece) for taker in takers for piece in taker.pieces) <= READ_AT_MOST
        assert [taker.told for taker in takers] == [["made", "eof"]] * 2

    run(main(), kind)


@pytest.mark.parametrize("kind", LOOPS)
def test_the_protocol_learns_whether_its_peer_takes_more(kind):
    async def main() -> None:
        taker = Taker()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: SmallReads(taker, new_inbox()), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"go")
            await wait_until(lambda: taker.pieces, "the first bytes")
            taker.transport.write(b"x" * MUCH)
            assert taker.told == ["made", "pause"]
            await reader.readexactly(MUCH)
            writer.close()
            await taker.lost
        server.close()

        assert taker.told == ["made", "pause", "resume", "eof"]

    run(main(), kind)
