"""Sealing of what is kept at rest, and the keyed hash of what must only be recognised.

The key file is text, one key a line:

    hash <32 bytes in base64url>
    key <32 bytes in base64url>
    key <…>

The first `key` seals, all of them open: to rotate, put a new one above the others
and drop an old one when nothing that it sealed is left. The `hash` key is never
rotated, since what was hashed once must be found again.

This protects a stolen disk, backup or dump of the store. It does not protect
from whoever can read the key file or this process's memory.
"""

import hashlib
import hmac
import os
import stat
import threading
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from proxy.core.errors import ConfigError, StoreCorruptError
from proxy.runtime import random_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from zstandard import ZstdCompressor, ZstdDecompressor

KEY_BYTES: Final = 32

SEAL_INLINE_BYTES: Final = 65_536
"""Up to here sealing takes under a millisecond; more of it leaves the event loop."""

# Sealed: format, flags, key ID (4), nonce (12), ciphertext with its tag (16).
_FORMAT: Final = 1
_COMPRESSED: Final = 1
_HEADER_BYTES: Final = 6
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16

_COMPRESS_FROM: Final = 256
"""Below this many bytes the frame's overhead eats what compression saves."""

_LEVEL: Final = 1
"""A 2 KB body: ratio 1.90 in 6 µs. Level 3 makes it 1.93 and takes half as long again."""


class KeyMissingError(StoreCorruptError):
    """The key file does not hold the key that something was sealed with."""


class Vault:
    """Seals and opens values with AES-256-GCM, and hashes with HMAC-SHA256.

    May be used from several threads. Nonces are random, which is safe up to 2^32
    values for one key (NIST SP 800-38D, section 8.3): rotate before.
    """

    def __init__(self, *, keys: Sequence[bytes], hash_key: bytes, path: Path | None = None) -> None:
        """`path` is the key file that they stand in, for messages."""
        assert keys
        assert all(len(key) == KEY_BYTES for key in (*keys, hash_key))
        self.source = "this one" if path is None else str(path)
        """The key file, as a message names it."""

        self._keys = {_key_id(key): key for key in keys}
        self._seals_with = _key_id(keys[0])
        self._ciphers: dict[bytes, AESGCM] = {}
        self._hash_key = hash_key
        self._local = _Compression()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the key file.

        Raises:
            ConfigError: if it cannot be read, others may read it, or it is malformed.
        """
        return cls._parse(_read_private(path), path)

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """Read the key file, or make one with fresh keys if there is none.

        If several processes start at once, one makes it and all read it.

        Raises:
            ConfigError: as `load`, or if it cannot be written.
        """
        if not path.exists():
            _create(path)
        return cls.load(path)

    @classmethod
    def _parse(cls, text: str, path: Path) -> Self:
        keys: list[bytes] = []
        hash_keys: list[bytes] = []
        for number, line in enumerate(text.splitlines(), start=1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            key = _decode_key(words[1]) if len(words) == 2 else None
            if key is None or words[0] not in {"hash", "key"}:
                # Never the line itself: it may hold a key with a typo.
                raise ConfigError(
                    f"key file {path}, line {number}: expected 'key' or 'hash' "
                    f"and {KEY_BYTES} bytes in base64url"
                )
            (keys if words[0] == "key" else hash_keys).append(key)
        if not keys or len(hash_keys) != 1:
            raise ConfigError(
                f"key file {path}: needs one 'hash' line and at least one 'key' line, "
                f"has {len(hash_keys)} and {len(keys)}"
            )
        return cls(keys=keys, hash_key=hash_keys[0], path=path)

    def seal(self, plaintext: bytes, *, context: str) -> bytes:
        """Return `plaintext` compressed, if that pays, and encrypted.

        It opens only under the same `context`, e.g. `payload:` and a job's ID:
        moved to another place in the store, it is worthless.
        """
        packed = None
        if len(plaintext) >= _COMPRESS_FROM:
            packed = self._local.compressor().compress(plaintext)
        return self._sealed(plaintext, packed, context)

    def seal_many(self, values: Sequence[tuple[bytes, str]]) -> list[bytes]:
        """Return each plaintext sealed under its context, as `seal` does.

        Compressing lets another thread have the interpreter, and has to wait for it: here
        once for all of them.
        """
        long: list[bytes | bytearray | memoryview[int]] = [
            plaintext for plaintext, _ in values if len(plaintext) >= _COMPRESS_FROM
        ]
        all_packed = iter(self._local.compressor().multi_compress_to_buffer(long) if long else ())
        sealed = []
        for plaintext, context in values:
            packed = next(all_packed).tobytes() if len(plaintext) >= _COMPRESS_FROM else None
            sealed.append(self._sealed(plaintext, packed, context))
        return sealed

    def _sealed(self, plaintext: bytes, packed: bytes | None, context: str) -> bytes:
        flags = 0
        if packed is not None and len(packed) < len(plaintext) * 0.9:
            plaintext, flags = packed, _COMPRESSED
        header = bytes((_FORMAT, flags)) + self._seals_with
        nonce = random_bytes(_NONCE_BYTES)
        cipher = self._cipher(self._seals_with)
        return header + nonce + cipher.encrypt(nonce, plaintext, header + context.encode())

    def open(self, sealed: bytes, *, context: str) -> bytes:
        """Return what was sealed under `context`.

        Raises:
            StoreCorruptError: if it was altered, belongs elsewhere, or its key is missing.
        """
        if len(sealed) < _HEADER_BYTES + _NONCE_BYTES + _TAG_BYTES or sealed[0] != _FORMAT:
            raise StoreCorruptError("a sealed value has an unknown format")
        header, flags, key_id = sealed[:_HEADER_BYTES], sealed[1], sealed[2:_HEADER_BYTES]
        if key_id not in self._keys:
            raise KeyMissingError(
                f"a value was sealed with key {key_id.hex()}, which the key file does not hold",
                hint="put the old key back below the new one",
            )
        nonce = sealed[_HEADER_BYTES : _HEADER_BYTES + _NONCE_BYTES]
        try:
            plaintext = self._cipher(key_id).decrypt(
                nonce, sealed[_HEADER_BYTES + _NONCE_BYTES :], header + context.encode()
            )
        except _invalid_tag():
            # Without the cause, whose frames hold contents.
            raise StoreCorruptError("a sealed value was altered or moved") from None
        if flags & _COMPRESSED:
            return self._local.decompressor().decompress(plaintext)
        return plaintext

    def renewed(self, sealed: bytes, *, context: str) -> bytes | None:
        """Return the same sealed with the first key; nothing if it is already, or is damaged.

        For what is kept for as long as it is used: a rotation would never reach it, and
        the old key could never be dropped.

        Raises:
            KeyMissingError: if it was sealed with a key that is not here.
        """
        if sealed[2:_HEADER_BYTES] == self._seals_with:
            return None
        try:
            return self.seal(self.open(sealed, context=context), context=context)
        except KeyMissingError as exc:
            # Where it is only the header that was damaged, somebody has to take it out.
            raise KeyMissingError(
                f"{context}: {exc.message}", hint=f"{exc.hint}, or take {context} out of the store"
            ) from None
        except StoreCorruptError:
            # No key cures that, and all others must not wait for it.
            return None

    def digest(self, *parts: str) -> str:
        """Return the same 43 URL-safe characters for the same parts, and only for them."""
        mac = hmac.new(self._hash_key, digestmod=hashlib.sha256)
        for part in parts:
            encoded = part.encode("utf-8", "surrogatepass")
            # Length first: no two lists of parts may read the same when joined.
            mac.update(len(encoded).to_bytes(8) + encoded)
        return _encode_key(mac.digest())

    def _cipher(self, key_id: bytes) -> "AESGCM":
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

            cipher = self._ciphers[key_id] = AESGCM(self._keys[key_id])
        return cipher


def _invalid_tag() -> type[Exception]:
    # Asked for only once something was raised: even a repeated import takes a microsecond.
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - 10 MB, when first needed

    return InvalidTag


class _Compression(threading.local):
    """Compressors of the calling thread: they keep state and must not be shared."""

    _compressor: "ZstdCompressor | None" = None
    _decompressor: "ZstdDecompressor | None" = None

    def compressor(self) -> "ZstdCompressor":
        if self._compressor is None:
            from zstandard import ZstdCompressor  # noqa: PLC0415

            self._compressor = ZstdCompressor(level=_LEVEL)
        return self._compressor

    def decompressor(self) -> "ZstdDecompressor":
        if self._decompressor is None:
            from zstandard import ZstdDecompressor  # noqa: PLC0415

            self._decompressor = ZstdDecompressor()
        return self._decompressor


def _key_id(key: bytes) -> bytes:
    """Return what names `key` in a header: derived, so that nobody has to number keys."""
    return hashlib.sha256(b"offramp key id" + key).digest()[:4]


def _encode_key(key: bytes) -> str:
    return urlsafe_b64encode(key).decode().rstrip("=")


def _decode_key(text: str) -> bytes | None:
    with suppress(ValueError):
        key = urlsafe_b64decode(text.rstrip("=") + "=")
        if len(key) == KEY_BYTES:
            return key
    return None


def _read_private(path: Path) -> str:
    try:
        with path.open("rb") as file:
            # Of the open file, not of the path: they could differ a moment later.
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(1 << 16)
    except OSError as exc:
        raise ConfigError(f"key file {path} cannot be read: {exc.strerror}") from exc
    # The group may read: that is how orchestrators hand a secret to a service.
    if mode & 0o027:
        raise ConfigError(
            f"key file {path} is open to others (mode {mode:04o})", hint=f"chmod 600 {path}"
        )
    try:
        return content.decode("ascii")
    except UnicodeDecodeError:
        raise ConfigError(f"key file {path} is not a text of keys") from None


def _create(path: Path) -> None:
    text = (
        "# Keep this file secret and keep a copy: without it the store cannot be read.\n"
        "# The first key seals, all open. Never change the hash line.\n"
        f"hash {_encode_key(os.urandom(KEY_BYTES))}\n"
        f"key {_encode_key(os.urandom(KEY_BYTES))}\n"
    )
    draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            # A link, unlike a rename, does not replace: whoever is first wins, and
            # nobody ever reads half a file.
            with suppress(FileExistsError):
                os.link(draft, path)
        finally:
            draft.unlink()
        _sync_directory(path.parent)
    except OSError as exc:
        raise ConfigError(
            f"key file {path} cannot be made: {exc.strerror}",
            hint="make the directory writable, or set secret_key_file",
        ) from exc


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
