"""Keep parts of an answer that passes by, without holding up or changing any of it."""

from proxy.core.fields import RawHeaders, by_name
from proxy.ports.upstream import Tunnel, UpstreamResponse, Write
from proxy.services.traffic.kept import Kept, Room, kept_for


class TappedResponse:
    """An answer that goes to its reader first and is then kept in parts."""

    def __init__(self, response: UpstreamResponse, kept: Kept) -> None:
        self._response = response
        self._kept = kept

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def reason(self) -> str:
        return self._response.reason

    @property
    def headers(self) -> RawHeaders:
        return self._response.headers

    @property
    def chunked(self) -> bool:
        return self._response.chunked

    @property
    def framed(self) -> bool:
        return self._response.framed

    @property
    def body_bytes(self) -> int:
        return self._response.body_bytes

    @property
    def trailers(self) -> RawHeaders:
        return self._response.trailers

    @property
    def at_end(self) -> bool:
        return self._response.at_end

    def take_ready(self) -> bytes:
        data = self._response.take_ready()
        if data:
            self._kept.add(data)
        return data

    async def next_chunk(self) -> bytes:
        data = await self._response.next_chunk()
        self._kept.add(data)
        return data

    async def pump(self, write: Write) -> None:
        def both(data: bytes) -> bool:
            goes_on = write(data)
            self._kept.add(data)
            return goes_on

        await self._response.pump(both)

    def tunnel(self) -> Tunnel:
        return self._response.tunnel()

    def close(self) -> None:
        self._response.close()


def tapped(response: UpstreamResponse, room: Room) -> tuple[UpstreamResponse, Kept | None]:
    """Return an answer as it is to be relayed, and what is kept of it, if it can be read."""
    if response.status != 200:
        return response, None
    kept = kept_for(by_name(response.headers), framed=response.framed, room=room)
    return (response, None) if kept is None else (TappedResponse(response, kept), kept)
