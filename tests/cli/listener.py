"""A listener of a proxy, for the commands that ask one."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-canary-0123456789"

HUNG_UP = 0
"""In place of a status: the connection ends without an answer."""


class Proxy(ThreadingHTTPServer):
    """A listener that gives prepared answers by path and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, list[tuple[int, str, bytes]]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(
        self,
        target: str,
        content: object,
        *,
        status: int = 200,
        content_type: str = "application/json",
    ) -> None:
        """Answer `target` so; several answers to one target come one after the other."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.answers.setdefault(target, []).append((status, content_type, body))


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path, dict(self.headers)))
        prepared = self.server.answers[self.path]
        status, content_type, body = prepared.pop(0) if len(prepared) > 1 else prepared[0]
        if status == HUNG_UP:
            return
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the library's name

    def log_message(self, *_: object) -> None:
        """Print nothing."""
