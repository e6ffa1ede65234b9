import asyncio
import logging
import socket
import ssl
from datetime import UTC, datetime

import httpx2
import pytest

from proxy.core.errors import ProviderUnavailableError
from proxy.core.web_proxy import WebProxy
from proxy.providers.openai_client import SESSIONS_MAX, Session, Sessions, translated
from proxy.providers.site import Site
from proxy.providers.worker import AbortedError
from tests.helpers.certificates import write_certificate
from tests.helpers.web_proxy import TunnelProxy
from tests.providers.kit import make_credential
from tests.upstreams.clients import tls_upstream

NOW = datetime(2026, 11, 27, tzinfo=UTC)


def headers(number: int) -> tuple[tuple[str, str], ...]:
    return make_credential(f"sk-{number}").headers


def is_open(session: Session) -> bool:
    return not session.client.is_closed()


def test_a_credential_keeps_its_client_and_only_so_many_are_kept():
    sessions = Sessions(Site("http://127.0.0.1:9/v1", "test"))
    first = sessions.of(headers(0))
    others = [sessions.of(headers(n)) for n in range(1, SESSIONS_MAX)]

    assert sessions.of(headers(0)) is first
    newest = sessions.of(headers(SESSIONS_MAX))

    assert is_open(first)
    assert [is_open(other) for other in others] == [False] + [True] * (SESSIONS_MAX - 2)
    sessions.close()
    assert not any(is_open(session) for session in (first, newest, *others))


def test_a_client_whose_connection_was_cut_is_not_used_again():
    sessions = Sessions(Site("http://127.0.0.1:9/v1", "test"))
    cut = sessions.of(headers(1))
    cut.connection.cut()

    fresh = sessions.of(headers(1))

    assert fresh is not cut
    assert not is_open(cut)
    sessions.close()


def test_a_session_is_lent_to_one_at_a_time_and_then_to_the_next():
    sessions = Sessions(Site("http://127.0.0.1:9/v1", "test"))
    with sessions.lent(headers(1)) as first, sessions.lent(headers(1)) as second:
        assert first is not second
        assert sessions.of(headers(1)) not in (first, second)
    with sessions.lent(headers(1)) as again, sessions.lent(headers(2)) as another:
        assert again is second
        assert another.secrets != again.secrets
    assert (is_open(first), is_open(second)) == (False, True)

    sessions.close()

    assert not is_open(second)


def test_a_session_that_was_cut_while_it_was_lent_is_not_lent_again():
    sessions = Sessions(Site("http://127.0.0.1:9/v1", "test"))
    with sessions.lent(headers(1)) as cut:
        cut.connection.cut()

    with sessions.lent(headers(1)) as fresh:
        assert fresh is not cut
    assert not is_open(cut)
    sessions.close()


def test_a_call_that_was_aborted_before_it_had_a_connection_opens_none():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        session = Sessions(Site(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", "test")).of(
            headers(1)
        )
        session.connection.cut()

        with pytest.raises(AbortedError):
            session.client.batches.retrieve("batch_1")

        with pytest.raises(BlockingIOError):
            listener.accept()
        session.close()


def test_the_libraries_stay_silent_below_warnings():
    for name in ("openai", "httpx2", "httpcore2"):
        assert not logging.getLogger(name).isEnabledFor(logging.INFO)
        assert not logging.getLogger(f"{name}.any").isEnabledFor(logging.DEBUG)


@pytest.fixture
def certificate(tmp_path, monkeypatch):
    """A certificate that the machine trusts."""
    file = write_certificate(tmp_path / "upstream.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    return file


async def test_a_batch_api_is_reached_through_a_web_proxy(certificate):
    async with tls_upstream(certificate) as server:
        port = server.sockets[0].getsockname()[1]
        async with TunnelProxy(port) as web_proxy:
            session = session_through(web_proxy.way("Basic bWU6cHc="), port)
            for _ in range(2):
                answer = await asyncio.to_thread(session.client.get, "/x", cast_to=httpx2.Response)
                assert answer.content == b"ok"
            (head,) = web_proxy.asked

            # What is cut is what the thread reads from.
            assert isinstance(session.connection._socket, ssl.SSLSocket)
            session.close()

    assert head.startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % port)
    assert b"\r\nProxy-Authorization: Basic bWU6cHc=\r\n" in head
    assert b"sk-1" not in head


async def test_where_there_is_no_way_through_a_web_proxy_nothing_was_sent():
    refusing = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    async with TunnelProxy(9, answer=refusing) as web_proxy:
        session = session_through(web_proxy.way(), 9)

        def create() -> None:
            with translated("create", session.secrets, lambda: NOW):
                session.client.get("/x", cast_to=httpx2.Response)

        with pytest.raises(ProviderUnavailableError) as told:
            await asyncio.to_thread(create)
        session.close()

    assert not told.value.sent


def session_through(web_proxy: WebProxy, port: int) -> Session:
    return Sessions(Site(f"https://127.0.0.1:{port}/v1", "test", web_proxy=web_proxy)).of(
        headers(1)
    )
