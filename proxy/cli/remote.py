"""Speak to a running proxy, one request a connection.

The standard library's client, since the answers are small, no redirect may carry
a key elsewhere, and nothing has to be imported for a second.
"""

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import urlencode, urlsplit

import click

from proxy.core.errors import ProxyError
from proxy.send.address import proxy_url

LONG_POLL_S: Final = 60
_PATIENCE_S: Final = 30.0

_NOT_HERE: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND})

_HINTS: Final = {"bad_token": "OFFRAMP_ADMIN_TOKEN holds it"}
"""By the code of a refusal, what the command line calls what it asks for."""

Json = dict[str, object]


class RemoteError(ProxyError):
    """The proxy could not be reached, or refused."""

    code = "remote_error"


class AwayError(RemoteError):
    """The proxy is not there, or about to go; it may come again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the proxy answered."""

    status: int
    content_type: str
    body: bytes
    hint: str = ""
    """What to look at if it was no Offramp that answered, or its other listener."""

    @property
    def is_own_error(self) -> bool:
        """Whether the proxy itself refused, rather than relayed a provider's error."""
        return self.content_type.startswith("application/problem+json")

    def json(self) -> Json:
        """Return the body's object.

        Raises:
            RemoteError: if it is none, or if the proxy refused.
            UsageError: if it refused what the command line asks for.
        """
        content = self._content()
        if self.status == HTTPStatus.BAD_REQUEST:
            raise click.UsageError(_message(content))
        if self.status >= 400:
            raise self.refusal()
        if not isinstance(content, dict):
            raise RemoteError(f"HTTP {self.status} without a JSON object: is this an offramp?")
        return content

    def refusal(self) -> RemoteError:
        """Return the error of an answer that is one."""
        content = self._content()
        kind = AwayError if self.status == HTTPStatus.SERVICE_UNAVAILABLE else RemoteError
        hint = self.hint if self._is_strange(content) else _HINTS.get(_code(content), "")
        return kind(f"HTTP {self.status}: {_message(content)}", hint=hint or None)

    def _content(self) -> object:
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def _is_strange(self, content: object) -> bool:
        """Return whether a refusal has the form of none that the asked listener writes."""
        error = content.get("error") if isinstance(content, dict) else None
        of_operators = (
            isinstance(error, dict)
            and error.keys() == {"code", "message"}
            # So it calls a path of the other one.
            and error["code"] != "path_not_found"
        )
        return self.status in _NOT_HERE and not self.is_own_error and not of_operators


@dataclass(frozen=True, slots=True)
class Remote:
    """One listener of a running proxy."""

    url: str
    token: str | None = field(default=None, repr=False)
    hint: str = "is `offramp serve` running there, and is this its port for callers?"

    def get(self, path: str, query: Mapping[str, object] | None = None) -> Answer:
        """Read something. Query values that are `None` are left out."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = f"{path}?{urlencode(given)}" if given else path
        return self._send("GET", target, patience_s=patience_s(given))

    def post(self, path: str) -> Answer:
        """Do something; it is not repeated, whatever happens."""
        return self._send("POST", path, patience_s=patience_s({}))

    def _send(self, method: str, target: str, *, patience_s: float) -> Answer:
        connection, base_path = self._connection(patience_s)
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            # The library would say so too, and quote the token.
            raise RemoteError("the key holds characters that no header can carry")
        headers = {"Accept": "application/json", "User-Agent": "offramp-cli"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            connection.request(method, base_path + target, headers=headers)
            response = connection.getresponse()
            body = response.read()
        except ssl.SSLCertVerificationError as exc:
            raise RemoteError(
                f"cannot reach {self.url}: its certificate is not trusted: {exc.verify_message}",
                hint="SSL_CERT_FILE names a file with the certificate of its authority",
            ) from exc
        except (OSError, http.client.HTTPException, UnicodeError) as exc:
            reason = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
            raise AwayError(f"cannot reach {self.url}: {reason}", hint=self.hint) from exc
        finally:
            connection.close()
        return Answer(response.status, response.headers.get("Content-Type", ""), body, self.hint)

    def _connection(self, patience_s: float) -> tuple[http.client.HTTPConnection, str]:
        parts = urlsplit(proxy_url(self.url))
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        assert parts.hostname is not None
        connection = kinds[parts.scheme](parts.hostname, parts.port, timeout=patience_s)
        return connection, parts.path


def patience_s(query: Mapping[str, object]) -> float:
    """Return for how many seconds the proxy may be silent: as long as it is asked to, and some."""
    wait = query.get("wait")
    return _PATIENCE_S + (wait if isinstance(wait, int | float) else 0)


def _code(content: object) -> str:
    error = content.get("error") if isinstance(content, dict) else None
    return str(error.get("code")) if isinstance(error, dict) else ""


def _message(content: object) -> str:
    """Return the message of any of the error shapes that the proxy answers with."""
    if isinstance(content, dict):
        error = content.get("error")
        if isinstance(error, dict) and isinstance(error.get("message"), str):
            return str(error["message"])
        for name in ("detail", "title"):
            if isinstance(content.get(name), str):
                return str(content[name])
    return "no message"
