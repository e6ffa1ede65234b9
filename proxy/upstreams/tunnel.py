"""A way through a web proxy, asked for by `CONNECT` (RFC 9110, section 9.3.6).

Of its answer only the status matters: its page is for people who browse.
"""

import asyncio
import re
import socket
from http import HTTPStatus
from typing import Final

from proxy.core.authority import authority
from proxy.core.upstream import Upstream
from proxy.core.web_proxy import WebProxy
from proxy.system_words import system_words

_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})[ \r]")
_HEAD_ENDS: Final = b"\r\n\r\n"
_HEAD_AT_MOST: Final = 1 << 14
_READ_AT_MOST: Final = 4096


class WebProxyError(ConnectionError):
    """There is no way through the web proxy, whatever becomes of the upstream behind it."""


async def open_tunnel(sock: socket.socket, web_proxy: WebProxy, upstream: Upstream) -> None:
    """Have what is connected to the web proxy lead to the upstream; nothing of a call is sent.

    Raises:
        OSError: if it does not, with words that say why. The socket is of no use then.
    """
    loop = asyncio.get_running_loop()
    target = authority(upstream.host, upstream.port)
    asked = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
    if web_proxy.authorization is not None:
        asked += f"Proxy-Authorization: {web_proxy.authorization}\r\n"
    answer = b""
    try:
        await loop.sock_sendall(sock, f"{asked}\r\n".encode())
        while _HEAD_ENDS not in answer and len(answer) < _HEAD_AT_MOST:
            data = await loop.sock_recv(sock, _READ_AT_MOST)
            if not data:
                raise ConnectionResetError("it hung up")
            answer += data
    except OSError as exc:
        raise web_proxy_error(web_proxy, system_words(exc)) from exc
    found = _STATUS.match(answer)
    if found is None or _HEAD_ENDS not in answer:
        raise web_proxy_error(web_proxy, "it sent no valid HTTP")
    status = int(found[1])
    if status // 100 != 2:
        raise web_proxy_error(web_proxy, f"it answered {_named(status)}")
    if not answer.endswith(_HEAD_ENDS) or answer.count(_HEAD_ENDS) > 1:
        # Whoever speaks TLS waits for our first word.
        raise web_proxy_error(web_proxy, "it sent more than the head of its answer")


def web_proxy_error(web_proxy: WebProxy, words: str) -> WebProxyError:
    """Return how it is told that there is no way through."""
    return WebProxyError(f"no way through the web proxy {web_proxy.authority}: {words}")


def _named(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
