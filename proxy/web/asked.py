"""Read what a call asks for by its headers."""

from datetime import datetime

from policies.headers import Asked, HeaderError, read_headers
from proxy.core.errors import CallerError
from proxy.core.fields import RawHeaders


def read_asked(headers: RawHeaders, *, now: datetime) -> Asked:
    """Return what `headers` ask for.

    Raises:
        CallerError: if one of ours cannot be read; it names the header.
    """
    try:
        return read_headers(headers, now=now)
    except HeaderError as exc:
        raise CallerError(str(exc), param=exc.header, code="bad_header") from exc
