"""TLS towards upstreams: verified, and sessions resumed.

asyncio takes no session for a new connection. But an SSL context makes its
connections of a class that can be set, and such an object may be given its
session until the handshake begins: all of it documented API of `ssl`.
"""

import ssl
from typing import Any, Final

_SESSIONS: Final = "_offramp_sessions"


class ResumingObject(ssl.SSLObject):
    """A connection that begins with the session of the last one to the same host name.

    A session belongs to its context and was verified when it was made, for the
    name that it is kept under.
    """

    _begun = False
    said_goodbye = False
    """Whether the peer said that nothing more comes. Else anybody on the way may have cut it."""

    def read(self, *args: Any, **options: Any) -> Any:
        # That nothing has come yet is an exception; nothing at all is the goodbye.
        data = super().read(*args, **options)
        if not data:
            self.said_goodbye = True
        return data

    def do_handshake(self) -> None:
        # Called again and again until the handshake is through; a session may
        # be set before its first step only.
        if not self._begun and not self.server_side and self.server_hostname is not None:
            session = _sessions(self.context).get(self.server_hostname)
            if session is not None:
                self.session = session
        self._begun = True
        super().do_handshake()


def verifying_context() -> ssl.SSLContext:
    """Return a context that verifies against the system's authorities. Takes about 20 ms."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def resume_sessions(context: ssl.SSLContext) -> None:
    """Let the connections of this context resume what `keep_session` kept."""
    if context.sslobject_class is not ResumingObject:
        context.sslobject_class = ResumingObject
        setattr(context, _SESSIONS, {})


def keep_session(connection: object) -> None:
    """Remember the session of a connection that has been answered over.

    Not earlier: in TLS 1.3 the ticket comes after the handshake, with the first
    data (RFC 8446, section 4.6.1).
    """
    if isinstance(connection, ResumingObject) and connection.server_hostname is not None:
        session = connection.session
        if session is not None and session.has_ticket:
            _sessions(connection.context)[connection.server_hostname] = session


def ended_in_order(connection: object) -> bool:
    """Tell whether the end of a connection is its peer's word (RFC 9112, section 9.8)."""
    return not isinstance(connection, ResumingObject) or connection.said_goodbye


def _sessions(context: ssl.SSLContext) -> dict[str, ssl.SSLSession]:
    # Bounded by the configured upstreams: nobody else names a host here.
    sessions: dict[str, ssl.SSLSession] = getattr(context, _SESSIONS)
    return sessions
