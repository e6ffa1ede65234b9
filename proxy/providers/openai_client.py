"""The `openai` package as this service uses it: one attempt, no environment, no surprises.

Importing this module imports the package, which takes half a second and 58 MB.
Only worker threads import it, when they first need it.
"""

import contextlib
import logging
import ssl
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import IO, Final

import httpx2
import openai
from openai._types import Headers as SdkHeaders
from openai._types import Omit

from proxy.core.dialects import FilesWay
from proxy.core.errors import ProviderError
from proxy.core.retry_after import pause_asked_for
from proxy.providers import _wire
from proxy.providers.codings import Decoder
from proxy.providers.site import Site
from proxy.providers.worker import TracedConnection

# At debug level the transport logs whole URLs and response heads; the operator's
# log level is about this service.
for _name in ("openai", "httpx2", "httpcore2"):
    logging.getLogger(_name).setLevel(logging.WARNING)

_TIMEOUT: Final = httpx2.Timeout(connect=10.0, write=60.0, read=60.0, pool=5.0)
"""Seconds without progress, each; the whole of a call is bounded by its worker."""

_LIMITS: Final = httpx2.Limits(
    # `TracedConnection` knows one connection.
    max_connections=1,
    max_keepalive_connections=1,
    # A connection that idled longer may be dead without our knowing, and a create on it
    # would have to be searched for.
    keepalive_expiry=5.0,
)

_UNSENT: Final = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
)
"""Failures before the first byte of a request: no address, no connection, no tunnel, no TLS."""

SESSIONS_MAX: Final = 16

_ANSWER_BYTES_MAX: Final = 32 * 1024 * 1024
"""A list that comes whole names 50,000 batches in this. What reads an answer needs three times
its memory."""

Headers = tuple[tuple[str, str], ...]
"""The header fields of a credential."""


class _Client(openai.OpenAI):
    """The vendor's client, with our headers and no others.

    Its own defaults would mix in `OPENAI_CUSTOM_HEADERS`, `OPENAI_ORG_ID` and
    `OPENAI_PROJECT_ID`: another account's, where a proxy serves many.
    """

    exact_headers: Mapping[str, str]

    @property
    def default_headers(self) -> dict[str, str | Omit]:
        return dict(self.exact_headers)

    @property
    def auth_headers(self) -> dict[str, str]:
        return {}

    def _auth_headers(self, security: object) -> dict[str, str]:  # noqa: ARG002
        return {}

    def _validate_headers(self, headers: SdkHeaders, custom_headers: SdkHeaders) -> None:
        """Accept all: a server of one's own may ask for no credential."""


class Session:
    """One credential's client and its one connection, for one thread."""

    def __init__(
        self,
        site: Site,
        credential: Headers,
        trust: ssl.SSLContext,
        *,
        reads_files: bool = False,
    ) -> None:
        """`reads_files` says that a success is read bit by bit, and may be of any length."""
        self._reads_files = reads_files
        self.connection = TracedConnection()
        self.secrets = _wire.secrets_of(credential)
        self._http = httpx2.Client(
            verify=trust,
            proxy=_web_proxy(site),
            # No other proxies, certificates or `.netrc` from the environment.
            trust_env=False,
            # A redirected create would be a second create.
            follow_redirects=False,
            timeout=_TIMEOUT,
            limits=_LIMITS,
            event_hooks={"request": [self._traced], "response": [self._bounded]},
        )
        self.client = _Client(
            # What is not given here is read from the environment; none of it is used.
            api_key="unused",
            admin_api_key="",
            organization="",
            project="",
            webhook_secret="",
            base_url=site.base_url,
            max_retries=0,
            timeout=_TIMEOUT,
            http_client=self._http,
        )
        self.client.exact_headers = {
            "Accept": "application/json",
            # Results are taken as they are: nothing to inflate beyond what was read.
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "User-Agent": site.user_agent,
            **dict(credential),
        }

    # Below stand the calls in which members of the family differ: by path and fields, as
    # the package offers it for what it has no method for.

    def upload(self, way: FilesWay, name: str, body: IO[bytes]) -> bytes:
        """Upload a batch's input under a name, and return the answer."""
        fields: dict[str, object] = {"purpose": way.purpose}
        if way.names_uploads:
            fields["file_name"] = name
        if way.file_life is not None:
            seconds = int(way.file_life.total_seconds())
            fields["expires_after"] = {"anchor": "created_at", "seconds": seconds}
        answer = self.client.post(
            way.upload_path,
            cast_to=httpx2.Response,
            body=fields,
            files=[("file", (name, body, "application/jsonl"))],
            options={"headers": {"Content-Type": "multipart/form-data"}},
        )
        return answer.content

    def create(self, body: Mapping[str, object], headers: Mapping[str, str]) -> bytes:
        """Create a batch, and return the answer."""
        answer = self.client.post(
            "/batches", cast_to=httpx2.Response, body=body, options={"headers": headers}
        )
        return answer.content

    def list(self, path: str, query: Mapping[str, object]) -> bytes:
        """Return a page of a list."""
        answer = self.client.get(path, cast_to=httpx2.Response, options={"params": query})
        return answer.content

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _traced(self, request: httpx2.Request) -> None:
        request.extensions["trace"] = self.connection.trace

    def _bounded(self, response: httpx2.Response) -> None:
        """Have no answer take more memory than we mean to give it, compressed or not."""
        most = None if self._reads_files and response.is_success else _ANSWER_BYTES_MAX
        coding = response.headers.pop("content-encoding", None)
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = _Body(response.stream, coding, most)


class _Body(httpx2.SyncByteStream):
    """The bytes of an answer, unpacked bit by bit, and no more of them than `most`."""

    def __init__(self, source: httpx2.SyncByteStream, coding: str | None, most: int | None) -> None:
        self._source = source
        self._coding = coding
        self._most = most

    def __iter__(self) -> Iterator[bytes]:
        what, taken = "answer of a batch API", 0
        decoder = Decoder(what, self._coding)
        for data in self._source:
            for piece in decoder.pieces(data):
                taken += len(piece)
                if self._most is not None and taken > self._most:
                    raise _wire.unavailable(what, "it does not end")
                yield piece

    def close(self) -> None:
        self._source.close()


class Sessions:
    """The sessions of one upstream, the least recently used closed beyond a few."""

    def __init__(self, site: Site) -> None:
        self._site = site
        # Read once, some milliseconds and 1 MB: the same trust as Python's own.
        self._trust = ssl.create_default_context()
        self._kept: OrderedDict[Headers, Session] = OrderedDict()
        self._idle: OrderedDict[Headers, Session] = OrderedDict()
        """Sessions of credentials whose last download is over."""

    def of(self, credential: Headers) -> Session:
        """Return the session of a credential, which stays open for the next call."""
        session = self._kept.pop(credential, None)
        if session is None or session.connection.is_cut:
            if session is not None:
                session.close()
            session = self._new(credential)
        _keep(self._kept, credential, session)
        return session

    @contextlib.contextmanager
    def lent(self, credential: Headers) -> Iterator[Session]:
        """Lend a session that nobody else uses as long as the context lasts."""
        session = self._idle.pop(credential, None) or self._new(credential, reads_files=True)
        try:
            yield session
        finally:
            if session.connection.is_cut or credential in self._idle:
                session.close()
            else:
                _keep(self._idle, credential, session)

    def close(self) -> None:
        """Close all that are kept."""
        for kept in (self._kept, self._idle):
            while kept:
                kept.popitem()[1].close()

    def _new(self, credential: Headers, *, reads_files: bool = False) -> Session:
        return Session(self._site, credential, self._trust, reads_files=reads_files)


def _web_proxy(site: Site) -> httpx2.Proxy | None:
    web_proxy = site.web_proxy
    if web_proxy is None:
        return None
    told = web_proxy.authorization
    headers = None if told is None else {"Proxy-Authorization": told}
    return httpx2.Proxy(f"http://{web_proxy.authority}", headers=headers)


def _keep(kept: "OrderedDict[Headers, Session]", credential: Headers, session: Session) -> None:
    kept[credential] = session
    if len(kept) > SESSIONS_MAX:
        kept.popitem(last=False)[1].close()


@contextlib.contextmanager
def translated(what: str, secrets: tuple[str, ...], now: Callable[[], datetime]) -> Iterator[None]:
    """Raise the libraries' exceptions as ours.

    Without their cause: it holds the request and so the credential, and the texts
    of refusals echo parts of it.
    """
    try:
        yield
    except openai.APIStatusError as exc:
        raise _refusal(what, exc.response, secrets, now) from None
    except openai.APIConnectionError as exc:
        if isinstance(exc.__cause__, ProviderError):
            # It came, and is none.
            raise exc.__cause__ from None
        raise _no_answer(what, exc.__cause__ or exc) from None
    except httpx2.HTTPError as exc:
        raise _no_answer(what, exc) from None


def _refusal(
    what: str,
    response: httpx2.Response,
    secrets: tuple[str, ...],
    now: Callable[[], datetime],
) -> ProviderError:
    return _wire.refusal(
        what,
        status=response.status_code,
        body=response.content,
        retry_after=pause_asked_for(response.headers.get("retry-after"), now=now()),
        secrets=secrets,
    )


def _no_answer(what: str, cause: BaseException) -> ProviderError:
    reason = type(cause).__name__
    unsent = isinstance(cause, _UNSENT)
    if unsent and str(cause):
        # The words of the system or of TLS: no request was made that they could tell of.
        reason = f"{reason}: {cause}"
    return _wire.unavailable(what, reason, sent=not unsent)
