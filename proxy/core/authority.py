"""How a host and a port are written together (RFC 3986, section 3.2)."""


def authority(host: str, port: int | None = None) -> str:
    """Return `host`, in brackets if it is an IPv6 address, and the port if one is given."""
    written = f"[{host}]" if ":" in host else host
    return written if port is None else f"{written}:{port}"
