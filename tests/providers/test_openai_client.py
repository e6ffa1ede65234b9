import logging
import socket

import pytest

from proxy.providers.openai_client import SESSIONS_MAX, Session, Sessions
from proxy.providers.worker import AbortedError
from tests.providers.kit import make_credential


def headers(number: int) -> tuple[tuple[str, str], ...]:
    return make_credential(f"sk-{number}").headers


def is_open(session: Session) -> bool:
    return not session.client.is_closed()


def test_a_credential_keeps_its_client_and_only_so_many_are_kept():
    sessions = Sessions("http://127.0.0.1:9/v1")
    first = sessions.of(headers(0))
    others = [sessions.of(headers(n)) for n in range(1, SESSIONS_MAX)]

    assert sessions.of(headers(0)) is first
    newest = sessions.of(headers(SESSIONS_MAX))

    assert is_open(first)
    assert [is_open(other) for other in others] == [False] + [True] * (SESSIONS_MAX - 2)
    sessions.close()
    assert not any(is_open(session) for session in (first, newest, *others))


def test_a_client_whose_connection_was_cut_is_not_used_again():
    sessions = Sessions("http://127.0.0.1:9/v1")
    cut = sessions.of(headers(1))
    cut.cutter.cut()

    fresh = sessions.of(headers(1))

    assert fresh is not cut
    assert not is_open(cut)
    sessions.close()


def test_a_session_is_lent_to_one_at_a_time_and_then_to_the_next():
    sessions = Sessions("http://127.0.0.1:9/v1")
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
    sessions = Sessions("http://127.0.0.1:9/v1")
    with sessions.lent(headers(1)) as cut:
        cut.cutter.cut()

    with sessions.lent(headers(1)) as fresh:
        assert fresh is not cut
    assert not is_open(cut)
    sessions.close()


def test_a_call_that_was_aborted_before_it_had_a_connection_opens_none():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        session = Sessions(f"http://127.0.0.1:{listener.getsockname()[1]}/v1").of(headers(1))
        session.cutter.cut()

        with pytest.raises(AbortedError):
            session.client.batches.retrieve("batch_1")

        with pytest.raises(BlockingIOError):
            listener.accept()
        session.close()


def test_the_libraries_stay_silent_below_warnings():
    for name in ("openai", "httpx2", "httpcore2"):
        assert not logging.getLogger(name).isEnabledFor(logging.INFO)
        assert not logging.getLogger(f"{name}.any").isEnabledFor(logging.DEBUG)
