"""What no single value can tell: agreement between values, and the machine around.

Each check yields the path it complains about and the problem in words.
"""

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from policies.conditions import SECRET_HEADERS
from policies.fields import LONGEST_DEADLINE
from proxy.core.dialects import DIALECTS
from proxy.core.errors import ConfigError
from proxy.core.ids import ANONYMOUS
from proxy.core.leases import LEASE_MAX, LEASE_MIN
from proxy.core.notices import endpoint_at
from proxy.core.upstream import Upstream, check_upstream_name
from proxy.settings.layers import KeyPath
from proxy.settings.tree import Settings
from proxy.settings.values import duration_text

Finding = tuple[KeyPath, str]

_ProblemOf = Callable[[Path], str | None]

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_NO_NAME = "a name is made of letters, digits, '-', '_' and '.'"


def disagreements(settings: Settings) -> Iterator[Finding]:
    """Find values that cannot stand beside each other, or in this form."""
    yield from _upstreams(settings)
    yield from _owners(settings)
    yield from _held_keys(settings)
    yield from _webhooks(settings)
    yield from _prices(settings)
    batching = settings.batching
    if batching.linger > batching.linger_max:
        most = duration_text(batching.linger_max)
        yield ("batching", "linger"), f"must be at most batching.linger_max, which is {most}"
    if settings.listen == settings.admin.listen and settings.listen.port:
        yield ("admin", "listen"), "must differ from listen: management is on a port of its own"
    if settings.store.is_redis and settings.secret_key_file is None:
        yield (
            ("secret_key_file",),
            "is required with Redis: every instance must open what another one sealed",
        )
    if settings.durability == "ephemeral" and settings.deferral.default_answer != "wait":
        yield (
            ("deferral", "default_answer"),
            "must be wait while durability is ephemeral: a job ID would not outlive the machine",
        )
    if settings.instance.lease < LEASE_MIN:
        yield ("instance", "lease"), f"must be at least {duration_text(LEASE_MIN)}"
    if settings.instance.lease > LEASE_MAX:
        yield ("instance", "lease"), f"must be at most {duration_text(LEASE_MAX)}"
    for position, name in enumerate(settings.recording.headers):
        if name.lower() in SECRET_HEADERS:
            yield ("recording", "headers", position), "carries credentials: it is never recorded"
    if settings.deferral.default_deadline > LONGEST_DEADLINE:
        most = duration_text(LONGEST_DEADLINE)
        yield ("deferral", "default_deadline"), f"must be at most {most}"


def _upstreams(settings: Settings) -> Iterator[Finding]:
    for name, upstream in settings.upstreams.items():
        try:
            check_upstream_name(name)
        except ConfigError as exc:
            yield ("upstreams", name), exc.message
            continue
        try:
            Upstream.parse(name, upstream.dialect, upstream.base_url)
        except ConfigError as exc:
            yield ("upstreams", name, "base_url"), exc.message
        batch = DIALECTS[upstream.dialect].batch
        if upstream.batch_models and (batch is None or not batch.maps_models):
            yield (
                ("upstreams", name, "batch_models"),
                f"means nothing to {upstream.dialect}: it has no deployments for batches alone",
            )


def _owners(settings: Settings) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for path, owner, hashes in _named_tokens(settings):
        if not _NAME.fullmatch(owner):
            yield path, _NO_NAME
        if owner == ANONYMOUS:
            yield path, "is the name of those who show no token: everybody could read its jobs"
        for position, token_hash in enumerate(hashes):
            # A client may have one token for several upstreams.
            if seen.get(token_hash, owner) != owner or hashes.index(token_hash) < position:
                problem = f"is listed already, under {seen[token_hash]!r}: a token has one owner"
                yield (*path, position), problem
            seen[token_hash] = owner


def _named_tokens(settings: Settings) -> Iterator[tuple[KeyPath, str, tuple[str, ...]]]:
    for owner, hashes in settings.owners.items():
        yield ("owners", owner), owner, hashes
    for name, upstream in settings.upstreams.items():
        for client, hashes in upstream.clients.items():
            yield ("upstreams", name, "clients", client), client, hashes


def _held_keys(settings: Settings) -> Iterator[Finding]:
    for name, upstream in settings.upstreams.items():
        if upstream.holds_key and not any(upstream.clients.values()):
            yield ("upstreams", name, "clients"), "must name who may use the key that is held"
        if upstream.clients and not upstream.holds_key:
            yield ("upstreams", name, "clients"), "needs key or key_file: what they are to use"
        if not upstream.holds_key and (keyed := _keyed_gemini_beside(settings, name)):
            problem = f"is required: calls of the clients of {keyed!r} to its OpenAI API come here"
            yield ("upstreams", name, "key"), problem
        if upstream.key is not None:
            try:
                upstream.read_key()
            except ValueError as exc:
                yield ("upstreams", name, "key"), str(exc)
        for position, pattern in enumerate(upstream.client_paths):
            if not pattern.startswith("/"):
                yield ("upstreams", name, "client_paths", position), "must begin with /"


def _keyed_gemini_beside(settings: Settings, name: str) -> str | None:
    """Return the name of the upstream with a key whose OpenAI API this is."""
    api = _parsed(settings, name)
    for keyed, other in settings.upstreams.items():
        gemini = _parsed(settings, keyed) if other.holds_key else None
        if api is not None and gemini is not None and api.is_openai_api_of(gemini):
            return keyed
    return None


def _parsed(settings: Settings, name: str) -> Upstream | None:
    """Return an upstream; nothing if it cannot be one, which is complained about elsewhere."""
    upstream = settings.upstreams[name]
    try:
        return Upstream.parse(name, upstream.dialect, upstream.base_url)
    except ConfigError:
        return None


def _webhooks(settings: Settings) -> Iterator[Finding]:
    names = {owner for _, owner, _ in _named_tokens(settings)}
    for name, webhook in settings.webhooks.items():
        if not _NAME.fullmatch(name):
            yield ("webhooks", name), _NO_NAME
        try:
            endpoint_at(webhook.url)
        except ConfigError:
            problem = (
                "must be http(s)://host[:port]/path in ASCII, without credentials, '#' or spaces"
            )
            yield ("webhooks", name, "url"), problem
        if webhook.secret is not None:
            try:
                webhook.keys()
            except ValueError as exc:
                yield ("webhooks", name, "secret"), str(exc)
        for position, owner in enumerate(webhook.owners or ()):
            if owner not in names:
                yield ("webhooks", name, "owners", position), f"no owner {owner!r} under owners"


def _prices(settings: Settings) -> Iterator[Finding]:
    for upstream in settings.prices.providers:
        if upstream not in settings.upstreams:
            yield ("prices", "providers", upstream), f"no upstream {upstream!r} under upstreams"
    for name in settings.prices.models:
        upstream, slash, model = name.partition("/")
        if upstream not in settings.upstreams or not slash or not model:
            yield ("prices", "models", name), "is named upstream/model, with a configured upstream"


def surroundings(settings: Settings) -> Iterator[Finding]:
    """Find what the machine does not offer: files to read, a directory to write to."""
    for path, file, problem_of in _files(settings):
        problem = problem_of(file) if file is not None else None
        if problem:
            yield path, problem


def _files(settings: Settings) -> Iterator[tuple[KeyPath, Path | None, _ProblemOf]]:
    """Yield every file that can be named, with what tells why it cannot be used."""
    yield ("store",), settings.store.path, _unwritable
    yield ("recording", "path"), settings.recording.path, _unwritable
    yield ("secret_key_file",), settings.secret_key_file, partial(_unusable_keys, settings)
    yield ("policies",), settings.policies, _unreadable
    yield ("prices", "file"), settings.prices.file, _unreadable
    admin = settings.admin
    yield ("admin", "token_file"), admin.token_file, partial(_unusable, read=admin.read_token)
    for name, webhook in settings.webhooks.items():
        unusable = partial(_unusable, read=webhook.keys)
        yield ("webhooks", name, "secret_file"), webhook.secret_file, unusable
    for name, upstream in settings.upstreams.items():
        unusable = partial(_unusable, read=upstream.read_key)
        yield ("upstreams", name, "key_file"), upstream.key_file, unusable
    for path, tls in ((("tls",), settings.tls), (("admin", "tls"), settings.admin.tls)):
        if tls is not None:
            yield (*path, "cert_file"), tls.cert_file, _unreadable
            yield (*path, "key_file"), tls.key_file, _unreadable


def _unusable_keys(settings: Settings, key_file: Path) -> str | None:
    problem = _unreadable(key_file)
    if problem is None or settings.store.is_redis or not _is_absent(key_file):
        return problem
    # Beside SQLite it is made.
    obstacle = _unwritable(key_file)
    return f"is absent and cannot be made: {obstacle}" if obstacle else None


def _unusable(file: Path, read: Callable[[], object]) -> str | None:
    """Return why `file` cannot be read, or what `read` has against its content."""
    problem = _unreadable(file)
    if problem is None:
        try:
            read()
        except UnicodeDecodeError:
            problem = "its content must be text, and is not UTF-8"
        except ValueError as exc:
            problem = f"its content {exc}"
    return problem


A_PIPE: Final = "cannot be read: it is a pipe"


def is_named_pipe(file: Path) -> bool:
    """Return whether opening `file` would wait for somebody to write to it.

    What a shell puts in the place of `<(…)` is a pipe that is open already.

    Raises:
        OSError: if it cannot be told.
    """
    return Path(os.path.realpath(file)).is_fifo()


def _unreadable(file: Path) -> str | None:
    try:
        if is_named_pipe(file):
            return A_PIPE
        with file.open("rb"):
            return None
    except OSError as exc:
        return f"cannot be read: {exc.strerror}"


def _is_absent(file: Path) -> bool:
    try:
        return not file.exists()
    except OSError:
        return False


def _unwritable(file: Path) -> str | None:
    """Say why `file` could not be made or changed, without touching anything."""
    try:
        return _obstacle(file)
    except OSError as exc:
        # In a folder that is closed to us not even what is there can be asked.
        return f"cannot be reached: {exc.strerror}"


def _obstacle(file: Path) -> str | None:
    if file.exists():
        if not file.is_file():
            return "is no file"
        return None if os.access(file, os.W_OK) else "cannot be written: Permission denied"
    ancestor = file.parent
    while not ancestor.exists() and ancestor != ancestor.parent:
        ancestor = ancestor.parent
    if not ancestor.is_dir():
        return f"cannot be made: {ancestor} is no directory"
    if not os.access(ancestor, os.W_OK | os.X_OK):
        return f"cannot be made: no right to write in {ancestor}"
    return None
