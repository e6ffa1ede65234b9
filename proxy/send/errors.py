"""What ends a start of `offramp send`, and what each of them keeps."""

from proxy.core.errors import ProxyError


class SendError(ProxyError):
    """Sending cannot go on. What was sent and answered is kept."""

    code = "send_failed"


class KeyRefusedError(SendError):
    """The proxy takes nothing at all with this key."""
