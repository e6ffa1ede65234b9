"""The certificates of our listeners, which are read again while they are in use.

Once a context has loaded its files again, it serves new connections with the new certificate; those
that are open keep theirs. A certificate that cannot be used is told of, and the old one stays.
"""

import ssl
from collections.abc import Sequence
from pathlib import Path

import structlog

from proxy.core.errors import ConfigError

log = structlog.get_logger()


class Certificate:
    """One listener's certificate and key. `context` is for the listener."""

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        """Read both.

        Raises:
            ConfigError: if they cannot be used together.
        """
        self._files = (cert_file, key_file)
        self._read_of: object = None
        self.context = _context()
        problem = self._load()
        if problem is not None:
            raise ConfigError(f"{cert_file}: {problem}")

    def renew(self) -> bool:
        """Read the files again if they have changed; return whether they came into force."""
        if self._state() == self._read_of:
            return False
        problem = self._load()
        if problem is None:
            log.info("certificate.loaded", file=str(self._files[0]))
        else:
            log.warning("certificate.kept", file=str(self._files[0]), error=problem)
        return problem is None

    def _load(self) -> str | None:
        """Load both files, or return why that is not possible; then nothing has changed."""
        self._read_of = self._state()
        try:
            # A pair that does not match would leave the context in use with half of it.
            _context().load_cert_chain(*self._files, password=_no_passphrase)
            self.context.load_cert_chain(*self._files, password=_no_passphrase)
        except ssl.SSLError as exc:
            return f"certificate and key cannot be used together: {exc.reason or exc}"
        except (OSError, ValueError) as exc:
            return str(exc)
        return None

    def _state(self) -> object:
        """Return what changes when a file does: mounted secrets are exchanged by a link."""
        try:
            found = [file.stat() for file in self._files]
        except OSError as exc:
            return str(exc)
        return [(one.st_ino, one.st_size, one.st_mtime_ns) for one in found]


class Certificates:
    """All of them. `run_once` is a pass."""

    def __init__(self, certificates: Sequence[Certificate]) -> None:
        self._certificates = certificates

    async def run_once(self) -> int:
        """Renew those whose files have changed; return how many."""
        return sum([one.renew() for one in self._certificates])


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _no_passphrase() -> str:
    # Otherwise OpenSSL asks for it on the terminal, and the start would hang there.
    raise ValueError("the private key has a passphrase: nobody is there to type it")
